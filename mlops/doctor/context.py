"""What the checks share: each writes down what it found for those that need it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlops.core.resources import Cluster, Deployment, Endpoint, ModelVersion, Usage, VmSize

if TYPE_CHECKING:
    from mlops.azure.management import Caller
    from mlops.azure.session import Session
    from mlops.config.settings import Settings
    from mlops.core.console import Console
    from mlops.rollout.identity import WorkspaceScope


@dataclass
class CheckContext:
    """One target as far as it is known; what a check needs, the checks before it have set.

    Attributes:
        offered: the sizes of the region; None where this login may not list them.
        usages: the region's quota, and what is used of it; where they are not known, why.
        nodes: of the cluster, at this moment.
        base: the registry's model; None where the hub's is used, or none was found.
        endpoint: None where there is none.
    """

    target: str
    console: Console
    settings: Settings = field(init=False)
    session: Session = field(init=False)
    caller: Caller = field(init=False)
    workspace: WorkspaceScope = field(init=False)
    offered: Sequence[VmSize] | None = None
    usages: Sequence[Usage] | str = "not looked at"
    base: ModelVersion | None = None
    cluster: Cluster = field(init=False)
    nodes: int = 0
    training_size: VmSize | None = None
    serving_size: VmSize | None = None
    endpoint: Endpoint | None = None
    deployments: Sequence[Deployment] = ()

    @property
    def target_flag(self) -> str:
        """What a command that is told to people needs to mean this target."""
        return "" if self.target == "local" else f" --target {self.target}"

"""What the parts of the daemon share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from mlops.local.state.config import Config
from mlops.local.state.layout import Layout
from mlops.local.state.operations import Operations
from mlops.local.state.store import Store

if TYPE_CHECKING:
    from mlops.local.arm.resources import ResourceType


class Part(Protocol):
    """A part of the daemon: ``install(workspace)`` of its module makes it, the server starts and stops it.

    Processes that a part starts inherit the daemon's environment (its variable ``MLOPS_LOCAL_STATE`` marks them), so
    that ``mlops local stop`` finds them even when the daemon was killed.
    """

    @property
    def types(self) -> Sequence[ResourceType]:
        """ARM types that the part answers for; may be empty."""

    async def start(self) -> None:
        """After the daemon started, perhaps after one that was killed: find or restart processes, resume work."""

    async def stop(self) -> None:
        """Leave no process behind."""


@dataclass
class Workspace:
    """The state of one local workspace. ``services`` holds the long-lived parts by name (jobs, serving, blobs, …)."""

    layout: Layout
    config: Config
    store: Store
    operations: Operations
    services: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, layout: Layout, config: Config | None = None) -> Workspace:
        """Open (or make) the workspace in a state folder."""
        config = config or Config()
        store = Store(layout.database)
        return cls(layout=layout, config=config, store=store, operations=Operations(store, config))

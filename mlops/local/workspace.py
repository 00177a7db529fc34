"""What the parts of the daemon share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mlops.local.config import Config
from mlops.local.layout import Layout
from mlops.local.operations import Operations
from mlops.local.store import Store


@dataclass
class Workspace:
    """The state of one local workspace. ``services`` holds the long-lived parts by name (jobs, deployments, …)."""

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

"""What the parts of the daemon share."""

from __future__ import annotations

from dataclasses import dataclass

from mlops.local.state.accounts import ServedAccounts
from mlops.local.state.config import Config
from mlops.local.state.layout import Layout
from mlops.local.state.operations import Operations
from mlops.local.state.store import Store


@dataclass(frozen=True)
class Workspace:
    """The state of one local workspace: its files, its settings, its resources and their operations."""

    layout: Layout
    config: Config
    accounts: ServedAccounts
    store: Store
    operations: Operations

    @classmethod
    def open(cls, layout: Layout, config: Config | None = None) -> Workspace:
        """Open (or make) the workspace in a state folder."""
        config = config or Config()
        store = Store(layout.database)
        return cls(
            layout=layout,
            config=config,
            accounts=ServedAccounts(config.account),
            store=store,
            operations=Operations(store, config),
        )

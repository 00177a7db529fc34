"""The storage accounts under whose names the workspace's blobs are served."""

from __future__ import annotations


class ServedAccounts:
    """Names of one folder of blobs; they come and go with the storage accounts of the subscription."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __contains__(self, name: object) -> bool:
        return name in self.names

    @property
    def shown(self) -> str:
        """The account that clients are shown: the one that the workspace was made with."""
        return self.names[-1]

    def serve(self, name: str) -> None:
        """Serve the blobs under this name too, and show it to clients from now on."""
        self.names = (*(each for each in self.names if each != name), name)

    def forget(self, name: str) -> None:
        """Serve them no longer under this name."""
        self.names = tuple(each for each in self.names if each != name)

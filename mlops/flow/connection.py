"""The connection by which the flow asks an endpoint: made from the endpoint, so that nobody copies a key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlops.flow.environment import Environment

if TYPE_CHECKING:
    from mlops.azure.session import Session
    from mlops.config.settings import Settings
    from mlops.core.console import Console

NAME = "chat-endpoint"
"""What ``flow.dag.yaml`` calls it."""
START_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A custom connection of Prompt flow's.

    Attributes:
        name: what flows call it.
        endpoint: the scoring address.
        key: never shown, not even by ``repr``.
    """

    name: str
    endpoint: str
    key: str = field(repr=False)


def connection_of(session: Session, *, endpoint: str, name: str = NAME) -> Connection:
    """The connection to an endpoint, its key fetched.

    Raises:
        PreconditionError: there is no such endpoint.
        AzureError: it has no address yet.
    """
    from mlops.azure import endpoints

    address = endpoints.required_address(endpoints.required(session, endpoint))
    return Connection(name=name, endpoint=address, key=endpoints.key(session, endpoint))


def connect_local(environment: Environment, connection: Connection) -> None:
    """Create or renew the connection in Prompt flow's store on this machine, the key encrypted.

    Raises:
        FlowFailed: Prompt flow refuses it.
    """
    document = {"name": connection.name, "endpoint": connection.endpoint, "key": connection.key}
    environment.run("connect.py", document, timeout_s=START_S)


def connect_azure(
    session: Session,
    settings: Settings,
    console: Console,
    *,
    project: str,
    name: str = NAME,
    endpoint: str | None = None,
) -> Connection:
    """Create or renew the connection in a project on Azure.

    Args:
        session: the login to the workspace that holds the endpoint; the project is in the same resource group.
        settings: the target's.
        console: shows progress.
        project: the project's name.
        name: the connection's.
        endpoint: another one than the settings'.

    Raises:
        PreconditionError: there is no such endpoint or project.
    """
    from mlops.azure import connections

    connection = connection_of(session, endpoint=endpoint or settings.endpoint.name, name=name)
    console.mask(connection.key)
    with console.step(f"connection '{name}' in the project '{project}'"):
        connections.put_custom(
            session,
            project,
            name,
            target=connection.endpoint,
            keys={"key": connection.key},
            values={"endpoint": connection.endpoint},
        )
    return connection

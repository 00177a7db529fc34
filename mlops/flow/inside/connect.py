"""Run by Prompt flow's interpreter: creates or renews a connection in its store. The key comes by stdin."""

from typing import Any

from document import answer


def connect(asked: dict[str, Any]) -> dict[str, Any]:
    """Write the connection."""
    from promptflow.client import PFClient
    from promptflow.entities import CustomConnection

    connection = CustomConnection(
        name=asked["name"], configs={"endpoint": asked["endpoint"]}, secrets={"key": asked["key"]}
    )
    made = PFClient().connections.create_or_update(connection)
    return {"name": made.name}


answer(connect)

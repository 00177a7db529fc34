"""Run by Prompt flow's interpreter: creates or renews a connection in its store. The key comes by stdin."""

from typing import Any

from document import answer


def connect(document: dict[str, Any]) -> dict[str, Any]:
    """Write the connection."""
    from promptflow.client import PFClient
    from promptflow.entities import CustomConnection

    connection = CustomConnection(
        name=document["name"], configs={"endpoint": document["endpoint"]}, secrets={"key": document["key"]}
    )
    stored = PFClient().connections.create_or_update(connection)
    return {"name": stored.name}


answer(connect)

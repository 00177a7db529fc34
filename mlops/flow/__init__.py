"""The Prompt flow in ``components/chat_flow``: its environment, its connection to the endpoint, and ways to try it."""

from mlops.flow.connection import NAME, Connection, connect_azure, connect_local, connection_of
from mlops.flow.environment import Environment

__all__ = ["NAME", "Connection", "Environment", "connect_azure", "connect_local", "connection_of"]

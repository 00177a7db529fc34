"""A chat with an endpoint: what was said, how much of it fits, and the loop in the terminal."""

from mlops.chat.ask import Asked, Asker
from mlops.chat.conversation import Conversation, Turn

__all__ = ["Asked", "Asker", "Conversation", "Turn"]

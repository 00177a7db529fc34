"""Makes what the workflows need of a subscription, and takes it away again."""

from __future__ import annotations

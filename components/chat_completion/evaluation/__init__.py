"""How good the answers are, and the report about it."""

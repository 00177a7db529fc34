"""The control plane: a generic tree of resources with behaviour added per type."""

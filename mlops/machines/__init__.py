"""Machine sizes: what they have, what they cost in quota, which models and servers fit them."""

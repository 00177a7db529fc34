"""Online endpoints: the processes that serve deployments, and the gateway before them."""

"""Training jobs and the model versions that come of them."""

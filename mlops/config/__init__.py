"""mlops.yaml: what may be set, and where each value stands."""

"""Run history and MLflow of the local workspace."""

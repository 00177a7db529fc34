"""The registry ``azureml`` of the local workspace."""

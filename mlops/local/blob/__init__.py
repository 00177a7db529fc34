"""Blob storage of the local workspace."""

"""Logins of the local workspace: tokens, federated credentials, GitHub's token service."""

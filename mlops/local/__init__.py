"""The local workspace: a daemon on loopback that speaks Azure's REST, runs jobs and serves models."""

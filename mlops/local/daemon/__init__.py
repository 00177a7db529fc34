"""The daemon of the local workspace: its process, its proxy, its TLS server."""

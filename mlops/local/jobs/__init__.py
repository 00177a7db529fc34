"""Jobs of the local workspace: submitted here, run by a process of their own."""

"""What the services of the local workspace share: its folder, its settings, its resources, its operations."""

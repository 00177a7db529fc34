"""What every room stands on: errors with exit codes, the console, resources, processes."""

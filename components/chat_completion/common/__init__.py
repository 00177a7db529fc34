"""What every step needs: its inputs, the device, a model on disk, a refusal."""

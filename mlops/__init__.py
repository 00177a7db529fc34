"""Fine-tune, register, release: the commands behind the workflows."""

__version__ = "0.1.0"

"""A run: its configuration and the checks of it, its checkpoints, metrics and environment."""

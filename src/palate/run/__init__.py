"""What a run is: its configuration and its checks, its folder, checkpoints, metrics and environment."""

"""The whole way in a small world: its datasets, its simulated voters, its pipeline's training, and the demo."""

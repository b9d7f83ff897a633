"""A small world with a known truth: procedural pictures, simulated voters, and a real, shipped diffusion pipeline."""

"""The denoiser in training: adapters or all weights, precision, shards, optimisers, averages, timesteps."""

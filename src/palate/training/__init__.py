"""Training: configuration, the cache of encoded pairs, addressed draws, the reference, the loop, checkpoints."""

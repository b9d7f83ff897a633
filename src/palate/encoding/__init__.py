"""Latents and embeddings on disk: pairs encoded once, for every run that needs them."""

"""Pictures from a model: prompts, noise, and where the pictures came from."""

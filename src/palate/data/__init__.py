"""Pairs and votes: their schema, the dataset folder on disk, importers from other formats, and a summary."""

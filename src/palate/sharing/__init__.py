"""Trained models for other people and other tools: export formats, and upload to the hub."""

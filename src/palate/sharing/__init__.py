"""Trained models for other people and other tools: formats, and the way to the hub."""

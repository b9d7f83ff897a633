"""The papers' claims in the small world."""

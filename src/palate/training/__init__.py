"""Training: sources of pairs, the reference, the step, the loop, and what only they need."""

"""Prompt suites, scorers, paired win rates with intervals."""

"""From votes to targets to rows: what training pulls each pair toward, and how much each pair counts."""

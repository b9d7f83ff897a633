"""Pages, cards and tables that show results to people."""

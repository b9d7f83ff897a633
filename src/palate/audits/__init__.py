"""What the votes say about the voters: judges against people, people against each other, and what more votes would
buy."""

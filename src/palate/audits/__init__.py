"""What votes say about the voters: judges against people, people against each other, the value of more votes."""

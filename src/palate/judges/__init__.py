"""Programs that vote, and what the human votes teach about their errors."""

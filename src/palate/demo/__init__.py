"""The whole way in a small world: its base model, its pairs and votes, its simulated people, the demo."""

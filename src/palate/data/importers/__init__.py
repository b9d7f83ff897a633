"""One file per foreign format: each reads a source into pairs and votes. `palate.data.importing` writes them."""

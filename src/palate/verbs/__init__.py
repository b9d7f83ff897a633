"""The verbs as functions, what `palate.VERB` is: each opens what it is given and calls its room. Those that work on a
dataset are in data.py, those that work on a model in models.py."""

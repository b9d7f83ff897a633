"""The verbs as functions, `palate.VERB`: each opens its arguments and calls its room. data.py has the verbs that work
on a dataset, models.py those that work on a model."""

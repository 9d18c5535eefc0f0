"""``omniform map``: a model over all records of a dataset, each exactly once, whatever ends on the way."""

"""Turn flagged runs into a Dataset: runs and feedback come in; flags, proposals, examples and a dataset go out."""

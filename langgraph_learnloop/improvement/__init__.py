"""Take a dataset, a recipe and a base model in; give a trained adapter out."""

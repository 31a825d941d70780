"""A run: from paths and a recipe to a checkpoint with its record."""

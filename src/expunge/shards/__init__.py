"""Exact removal: models trained so that forgetting an example retrains only what has seen it."""

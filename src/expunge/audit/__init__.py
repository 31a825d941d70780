"""The audit: models x conditions x metrics, with intervals and a verdict."""

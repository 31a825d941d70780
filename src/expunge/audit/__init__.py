"""The audit: models x transforms x metrics, with intervals and a verdict."""

"""Named methods as data."""

"""The models: loading them, the map of their modules, the precision of their weights."""

"""Exact deletion on the built-in world: what an ensemble knows, what a deletion costs, equal rates."""

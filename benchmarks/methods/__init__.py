"""Every method on the built-in world, side by side."""

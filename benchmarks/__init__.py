"""Speed and memory of this package against the plain way of doing the same, as ratios."""

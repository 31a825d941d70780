"""Closed-form edits: weights changed by arithmetic on other weights, with no training loop of their own."""

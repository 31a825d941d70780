"""Likelihoods and continuations, computed once per model and never through full logits."""

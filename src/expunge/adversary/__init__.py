"""What perturbs the model while it unlearns, so that forgetting survives the perturbation."""

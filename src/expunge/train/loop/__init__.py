"""The training loop: trainer, settings, callbacks, stop rules."""

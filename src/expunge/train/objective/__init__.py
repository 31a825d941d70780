"""What a training step minimises: paired losses, the frozen reference, saliency."""

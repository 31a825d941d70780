"""The objective of a training step: paired losses, the frozen reference, saliency."""

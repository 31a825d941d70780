"""An audit as it runs: what is measured, on which models, by how many workers, and what is missing."""

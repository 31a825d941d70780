"""Models that servers offer: where they are, how they are asked, and what metrics can have of them."""

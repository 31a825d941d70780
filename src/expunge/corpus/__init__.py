"""Examples: read, checked, tokenised with one mask, batched, paired, packed."""

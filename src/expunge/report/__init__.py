"""The report: what an audit found, as one page anyone can read."""

"""The statistics of an audit: intervals, comparisons of models, significance."""

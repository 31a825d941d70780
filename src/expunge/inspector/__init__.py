"""The inspector: a local web page to query the models of a run."""

"""The inspector: a local web page to ask models and see what came back."""

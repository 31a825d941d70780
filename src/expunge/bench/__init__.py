"""What comes with the package to try it on: the built-in models and the demo."""

"""Make a language model forget, and prove that it stays forgotten where it is deployed."""

__version__ = "0.1.0"

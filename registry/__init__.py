"""What exists and how it came to be; import from the named modules."""

__all__ = ["__version__"]

__version__ = "0.1.0"

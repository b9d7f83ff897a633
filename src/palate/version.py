"""The version of this package, as it is stored with what palate makes."""

__version__ = "0.1.0"

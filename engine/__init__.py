"""German speech in, German transcript and English translation out."""

__version__ = "0.1.0"

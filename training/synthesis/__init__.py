"""Synthetic speech by SVOX Pico and espeak-ng."""

"""Checks, timings and training runs for a machine with an NVIDIA GPU."""

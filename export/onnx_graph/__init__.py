"""Graphs that other programs wrote, put into bundles."""

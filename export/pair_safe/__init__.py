"""Bundles of earlier exports, made exact on every x86-64 processor."""

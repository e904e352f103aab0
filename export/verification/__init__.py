"""Checks that an exported graph equals its checkpoint."""

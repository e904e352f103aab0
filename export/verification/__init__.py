"""Proof that an exported graph still is its checkpoint."""

"""Manifests: which audio there is, and what is said in it. Training, export and benchmarks read them here."""

from engine.errors import ManifestError
from engine.manifests.reader import read_manifest, scan_manifest
from engine.manifests.rows import ManifestRow, Scan

__all__ = ["ManifestError", "ManifestRow", "Scan", "read_manifest", "scan_manifest"]

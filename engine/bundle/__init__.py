"""Model folders: manifest.json and its schema, hashes of every file, signatures of measurements."""

from engine.bundle.folder import BUNDLED, DEFAULT, Bundle, open_bundle, write_bundle
from engine.bundle.target import check_target

__all__ = ["BUNDLED", "DEFAULT", "Bundle", "check_target", "open_bundle", "write_bundle"]

"""The peer's side of the protocol; this folder is on the path of every peer's process."""

"""Training: from manifests and text to checkpoints. Needs the extra [train]."""

"""What is measured on: manifests and corpora."""

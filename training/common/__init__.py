"""What all training shares: manifests, loading, augmentation, the watchdog, metrics."""

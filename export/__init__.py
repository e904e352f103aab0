"""Checkpoints in, verified ONNX bundles out."""

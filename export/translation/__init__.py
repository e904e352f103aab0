"""Marian translators to ONNX."""

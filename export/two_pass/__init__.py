"""Recognisers with a second pass to ONNX."""

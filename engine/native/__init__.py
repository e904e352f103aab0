"""Encoders that `export/` wrote, computed by the numba kernels of `engine.kernels` instead of onnxruntime.

The ONNX file is the only source of weights: `onnx_file` reads it, `scopes` and `layers` recognise its parts
by the exporter's names, `packing` lays the weights out for the kernels, `stems`, `encoder` and `heads` run
them. A graph with any part unknown here is left to onnxruntime (`engine.acoustic.encoders` decides).
"""

"""Graphs that `export/` wrote, computed by the numba kernels of `engine.kernels` instead of onnxruntime.

The ONNX file is the only source of weights, and its layout table (`engine.bundle.layout`) says what they
are: `weights` hands them out and checks every shape, `packing` lays them out for the kernels, `encoder`,
`two_pass` and `marian` run them. Nodes are not looked at. A graph without a table, or with blocks that the
kernels do not compute, raises LayoutError and is left to onnxruntime (`engine.runtime.backend` decides).
"""

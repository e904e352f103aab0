"""Vector operations of the kernels, and the instruction set levels that they are compiled for."""

"""What every model runs on: onnxruntime, the choice of backend, cores, clocks, compilation ahead of time."""

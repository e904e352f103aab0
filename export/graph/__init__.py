"""ONNX graphs of speech encoders, built block by block from the weights; one file for each rewrite."""

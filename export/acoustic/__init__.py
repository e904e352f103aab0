"""Acoustic checkpoints to ONNX: Wav2Vec2, HuBERT, Conformer, log-mel encoders."""

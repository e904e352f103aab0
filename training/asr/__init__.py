"""CTC recognisers: Wav2Vec2, HuBERT, Conformer, log-mel encoders; their training loop and evaluation."""

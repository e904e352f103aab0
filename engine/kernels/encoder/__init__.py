"""Encoders: convolutions, attention, transformer layers, LSTM."""

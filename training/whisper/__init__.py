"""Recognisers of two passes out of Whisper: one encoder, a CTC head, an attention decoder over the same states."""

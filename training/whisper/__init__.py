"""Two-pass recognisers out of Whisper: one encoder, a CTC head, an attention decoder over its states."""

"""Two-pass recognisers made from Whisper: one encoder, a CTC head, an attention decoder over its states."""

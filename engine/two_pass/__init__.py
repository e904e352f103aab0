"""The second pass: an attention decoder over the encoder's states of one utterance."""

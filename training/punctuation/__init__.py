"""The tagger that restores capitals and punctuation."""

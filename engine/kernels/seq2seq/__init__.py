"""Attention decoders and translators: layers with a key-value cache, beams."""

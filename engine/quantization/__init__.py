"""int8 weights whose products are exact on every processor, and the check that they are."""

from engine.quantization.pair_safe import is_pair_safe, quantize_columns, quantize_stored, quantize_tensor

__all__ = ["is_pair_safe", "quantize_columns", "quantize_stored", "quantize_tensor"]

"""Which blocks become int8, and that their products are exact on every processor."""

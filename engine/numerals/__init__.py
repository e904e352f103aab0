"""Written German numbers, and what people say for them."""

"""Language models of the beam decoder: n-grams by KenLM, interpolation, tuned weights."""

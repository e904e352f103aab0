"""What is measured: error rates, BLEU, time, memory, and their confidence intervals."""

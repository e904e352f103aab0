"""CTC: greedy and beam search with n-gram fusion, alignment, prefix scores."""

"""Slow twins of the search kernels: plain Python over whole rows."""

from __future__ import annotations

import numpy as np


def top_tokens(log_probs, banned_id, n):
    """Values and ids of the n best tokens of each row, best first."""
    rows = np.array(log_probs, np.float32)
    rows[:, banned_id] = -np.inf
    ids = np.argsort(-rows, axis=1, kind="stable")[:, :n]
    return np.take_along_axis(rows, ids, 1), ids


def beam_search(step_log_probs, n_beams, eos_id, limit, length_penalty):
    """Beam search of one sentence by the definition.

    Args:
        step_log_probs: function of a tuple of tokens -> float32 [vocab].
    Returns:
        [(tokens with the end token, score)], best first.
    """
    running, finished = [((), np.float32(0))], []
    for step in range(limit):
        candidates = []
        for tokens, score in running:
            row = step_log_probs(tokens)
            candidates += [((*tokens, token), np.float32(score + row[token])) for token in range(len(row))]
        candidates.sort(key=lambda item: -item[1])
        best, running = candidates[: 2 * n_beams], []
        norm = np.float32((step + 1) ** length_penalty)
        for rank, (tokens, score) in enumerate(best):
            if tokens[-1] == eos_id or step + 1 == limit:
                if rank < n_beams:
                    finished.append((tokens, score / norm))
            elif len(running) < n_beams:
                running.append((tokens, score))
        finished = sorted(finished, key=lambda item: -item[1])[:n_beams]
        if step + 1 == limit or not running:
            break
        if len(finished) == n_beams and running[0][1] / norm <= finished[-1][1]:
            break
    return finished

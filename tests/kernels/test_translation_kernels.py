"""The search kernels against their slow twins, ties and edges included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.kernels.seq2seq.beam_select import NEVER, select_beams, trace_back
from engine.kernels.seq2seq.top_tokens import LANES, advance_greedy, top_tokens
from tests.reference import beam_search_reference as reference

pytestmark = pytest.mark.levels


@pytest.mark.parametrize("vocab", [3, LANES - 1, LANES, LANES + 1, 2 * LANES, 8000])
@pytest.mark.parametrize("n", [1, 2, 8])
def test_top_tokens_equal_a_full_sort(vocab: int, n: int) -> None:
    n = min(n, vocab - 1)
    rows = np.random.default_rng(vocab).standard_normal((5, vocab)).astype(np.float32) * 10
    wanted_scores, wanted = reference.top_tokens(rows, vocab - 1, n)
    scores, ids = np.empty((5, n), np.float32), np.empty((5, n), np.int64)
    top_tokens(rows.copy(), vocab - 1, scores, ids)
    np.testing.assert_array_equal(ids, wanted)
    np.testing.assert_array_equal(scores, wanted_scores)


@given(st.lists(st.sampled_from([-np.inf, -1e30, -2.0, -1.0, -1.0, 0.0]), min_size=4, max_size=150))
@settings(max_examples=60, deadline=None)
def test_top_tokens_with_ties_give_distinct_tokens_and_the_right_values(values: list[float]) -> None:
    row = np.array([values], np.float32)
    wanted, _ = reference.top_tokens(row, 0, 3)
    scores, ids = np.empty((1, 3), np.float32), np.empty((1, 3), np.int64)
    top_tokens(row.copy(), 0, scores, ids)
    np.testing.assert_array_equal(scores, wanted)
    real = ids[0][np.isfinite(scores[0])]
    assert len(set(real.tolist())) == len(real) and 0 not in real
    np.testing.assert_array_equal(row[0, real], scores[0][np.isfinite(scores[0])])


def test_greedy_step_takes_the_best_token_and_drops_what_ended() -> None:
    log_probs = np.full((3, 70), -9.0, np.float32)
    log_probs[0, 5], log_probs[1, 0], log_probs[2, 69] = -0.5, -0.1, -0.2  # 69 is banned
    log_probs[2, 7] = -3.0
    tokens, totals, lengths = np.zeros((4, 9), np.int64), np.zeros(9), np.zeros(9, np.int64)
    ids, rows = np.zeros((3, 1), np.int64), np.zeros(3, np.int64)
    active, limits = np.array([2, 4, 8]), np.full(9, 4)
    left = advance_greedy(log_probs, 69, 0, 1, active, limits, tokens, totals, lengths, ids, rows)
    assert left == 2
    assert ids[:2, 0].tolist() == [5, 7] and rows[:2].tolist() == [0, 2]
    assert tokens[1, [2, 4, 8]].tolist() == [5, 0, 7]
    np.testing.assert_allclose(totals[[2, 4, 8]], [-0.5, -0.1, -3.0], rtol=1e-6)
    assert lengths[[2, 4, 8]].tolist() == [2, 2, 2]


def random_language(seed: int, vocab: int):
    """A fixed table of next-token log-probabilities by (position, last token)."""
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((12, vocab + 1, vocab)).astype(np.float32) * 1.5
    table -= np.log(np.exp(table).sum(-1, keepdims=True))
    return lambda tokens: table[len(tokens), tokens[-1] if tokens else vocab]


def search_with_kernels(languages, n_beams: int, eos_id: int, limits: list[int], length_penalty: float):
    """Drive select_beams as the runtime does, for several sentences at once."""
    n, longest = len(languages), max(limits)
    shape = (n, n_beams)
    running, finished_scores = np.zeros(shape, np.float32), np.full(shape, NEVER, np.float32)
    tokens = np.zeros((longest, *shape), np.int64)
    parents = np.zeros_like(tokens)
    steps, ends, lasts = (np.zeros(shape, np.int64) for _ in range(3))
    counts, active = np.zeros(n, np.int64), np.arange(n)
    prefixes = [[()] for _ in range(n)]
    for step in range(longest):
        rows = [languages[s](prefix) for s in active for prefix in prefixes[s]]
        scores, ids = reference.top_tokens(np.stack(rows), len(rows[0]) - 1, 2 * n_beams)
        next_ids, row_idx = np.empty(n * n_beams, np.int64), np.empty(n * n_beams, np.int64)
        keep = np.empty(n, np.int64)
        left = select_beams(
            scores.astype(np.float32), ids, active, running, step, np.array(limits), eos_id, length_penalty,
            tokens, parents, finished_scores, steps, ends, lasts, counts, next_ids, row_idx, keep,
        )  # fmt: skip
        flat = [prefix for s in active for prefix in prefixes[s]]
        active = active[keep[:left]]
        for at, sentence in enumerate(active):
            span = range(at * n_beams, (at + 1) * n_beams)
            prefixes[sentence] = [(*flat[row_idx[i]], int(next_ids[i])) for i in span]
        if left == 0:
            break
    results = []
    for s in range(n):
        found = []
        for rank in range(counts[s]):
            out = np.empty(steps[s, rank] + 1, np.int64)
            trace_back(tokens[:, s], parents[:, s], steps[s, rank], ends[s, rank], lasts[s, rank], out)
            found.append((tuple(out.tolist()), finished_scores[s, rank]))
        results.append(found)
    return results


@pytest.mark.parametrize("n_beams", [2, 4])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_beam_search_equals_its_definition_for_every_sentence_of_a_batch(
    n_beams: int, length_penalty: float
) -> None:
    languages = [random_language(seed, 11) for seed in range(6)]
    limits = [1, 3, 5, 8, 8, 10]
    found = search_with_kernels(languages, n_beams, 0, limits, length_penalty)
    for language, limit, hypotheses in zip(languages, limits, found, strict=True):

        def without_padding(tokens, language=language):
            row = language(tokens).copy()
            row[10] = -np.inf
            return row

        wanted = reference.beam_search(without_padding, n_beams, 0, limit, length_penalty)
        assert [tokens for tokens, _ in hypotheses] == [tokens for tokens, _ in wanted]
        np.testing.assert_allclose([s for _, s in hypotheses], [s for _, s in wanted], rtol=1e-5)

"""CTC prefix beam search with n-gram fusion: the loop over frames, and the result at the end."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.kernels._jit import inner, kernel
from engine.kernels.ctc.extend import (
    EMPTY,
    enter_node,
    extend_letter,
    extend_word,
    hash_context,
    hash_text,
    identify_word,
    limit_log,
    mix_hash,
    weigh_word,
)
from engine.kernels.ctc.ngram import CONTEXT, UNKNOWN, score_word, start_context
from engine.kernels.ctc.pieces import end_words, extend_piece
from engine.kernels.ctc.prune import prune
from engine.kernels.ctc.rebuild import append_word, close_beams, make_room, open_beams, rebuild
from engine.kernels.ctc.state import N_OOV_FACTORS, NO_LM, OPENS_WORD, WORD_LM
from engine.kernels.ctc.stay import rank_stays, realign, select_tokens, stay

_TOO_SMALL, _TOO_LARGE = 1e-100, 1e100  # weights are rescaled outside of these

FINAL = np.dtype(
    [
        ("acoustic", np.float64),  # natural log, without the search's scale
        ("lm", np.float64),
        ("heaviest", np.float64),  # of the beams with this text
        ("text", np.uint64),
        ("word_node", np.int32),
    ],
    align=True,
)


@inner
def start_search(beams: Any, contexts: Any, search: Any, scorer: Any, lexicon: Any, hotwords: Any) -> None:
    """Make beam 0 the empty prefix at the start of an utterance."""
    beam = beams[0]
    beam.text, beam.word = EMPTY, EMPTY
    beam.key = mix_hash(EMPTY, EMPTY)
    beam.parent_key = np.uint64(0)
    beam.blank, beam.symbol, beam.lm, beam.factor = 1.0, 0.0, 0.0, 1.0
    beam.bound, beam.context = highest_letter(lexicon, hotwords), 0
    beam.parent, beam.hotword, beam.last, beam.length, beam.letters = -1, 0, search.delimiter, 0, 0
    enter_node(beam, 0, lexicon, scorer)
    beam.token_node, beam.word_node, beam.start, beam.end = -1, -1, 0, 0
    beam.prob_sum, beam.peak = 0.0, 0.0
    contexts[0].length = 0
    if scorer.weights[0].kind != NO_LM:
        start_context(scorer.memory, scorer.layout, scorer.weights[0].bos, contexts[0])
    beam.history = hash_context(contexts[0])


@kernel(inline="always")
def highest_letter(lexicon: Any, hotwords: Any) -> Any:
    """No first letter of a word has a larger factor."""
    return lexicon.highest * math.exp(hotwords.highest)


@kernel(inline="always")
def run_frames(
    log_probs: Any, first_frame: int, pieces: Any, search: Any, scorer: Any, lexicon: Any, hotwords: Any,
    records: Any, contexts: Any, beams: Any, spare_contexts: Any, n: int, scale: float,
    token_nodes: Any, word_nodes: Any, work: Any,
) -> Any:  # fmt: skip
    """Carry the beams through the frames of one chunk.

    Args:
        log_probs: float32 [n_frames, vocab_size], natural log.
        first_frame: the number of the chunk's first frame.
        pieces: how tokens are spelled, and which are never text.
        records, contexts: BEAM and CONTEXT [beam_width], the first n in use; changed in place.
        beams: BEAM [2 * beam_width] and spare_contexts: CONTEXT [beam_width], scratch.
        scale: natural log of a factor of all weights.
        token_nodes, word_nodes: trees of tokens and words, with room for beam_width more a frame.
        work: scratch; its counts tell how much of the trees is in use.
    Returns:
        n and scale after the chunk.
    """
    settled, hot_highest = False, math.exp(hotwords.highest)
    open_beams(records, contexts, n, beams, work)
    for t in range(len(log_probs)):
        n_tokens, largest = select_tokens(
            log_probs[t], pieces.spoken, search.blank, search.token_min, work.tokens, work.probs
        )
        scale += largest
        if n_tokens == 1 and work.tokens[0] == search.blank and (settled or not search.split):
            if not settled:
                settle(n, work.blanks, work.symbols)
            settled = True
        elif n_tokens > 0:
            make_room(beams, n, n * n_tokens, spare_contexts, work)
            best = extend(beams, n, n_tokens, search, scorer, lexicon, hotwords, pieces, hot_highest, work)
            n_before, n = n, prune(beams, n, best, search, work, pieces)
            rebuild(
                beams, n_before, n, first_frame + t, math.exp(largest), search, work, scorer, lexicon,
                pieces, token_nodes, word_nodes,
            )  # fmt: skip
            scale += rescale(n, best, work.blanks, work.symbols)
            settled = n_tokens == 1 and work.tokens[0] == search.blank
        for i in range(n_tokens):
            work.probs[work.tokens[i]] = 0.0
    close_beams(records, contexts, n, beams, work)
    return n, scale


@inner(forceinline=True)
def settle(n: int, blanks: Any, symbols: Any) -> None:
    """After a frame of blank only, every alignment ends in a blank; no rank changes."""
    for i in range(n):
        blanks[i] += symbols[i]
        symbols[i] = 0.0


@kernel(inline="always")
def extend(
    beams: Any, n: int, n_tokens: int, search: Any, scorer: Any, lexicon: Any, hotwords: Any,
    pieces: Any, hot_highest: float, work: Any,
) -> Any:  # fmt: skip
    """Make the candidates of one frame. Returns the best rank.

    hot_highest: exp(hotwords.highest), which is the same in every frame.
    """
    stay(n, n_tokens, search, work)
    if n_tokens == 1 and work.tokens[0] == search.blank:
        return rank_stays(n, search.split, work)
    realign(n, n_tokens, work)
    best = rank_stays(n, search.split, work)
    highest = lexicon.highest * hot_highest
    if search.pieces:
        largest = find_largest_start(n_tokens, work, pieces)
        if largest > 0.0:
            most = highest_word(scorer.weights[0]) * hot_highest * highest
            end_words(beams, n, largest, best * search.prune, most, scorer, hotwords, work)
    for i in range(n_tokens):
        token = work.tokens[i]
        if token == search.blank:
            continue
        if search.pieces and token != search.delimiter:
            best = extend_piece(beams, n, i, best, search, lexicon, hotwords, pieces, work, hot_highest)
        elif token == search.delimiter:
            word_highest = highest_word(scorer.weights[0]) * hot_highest
            best = extend_word(beams, n, i, best, search, scorer, hotwords, work, highest, word_highest)
        else:
            best = extend_letter(beams, n, i, best, search, scorer, lexicon, hotwords, work, hot_highest)
    return best


@inner(forceinline=True)
def find_largest_start(n_tokens: int, work: Any, pieces: Any) -> Any:
    """The highest probability of the frame's tokens that begin a word; 0 for none."""
    largest = 0.0
    for i in range(n_tokens):
        token = np.uint64(work.tokens[i])
        if pieces.spoken[token] == OPENS_WORD:
            largest = max(largest, work.probs[token])
    return largest


@inner(forceinline=True)
def highest_word(weights: Any) -> float:
    """Without hotwords, no end of a word makes a weight larger by more than this."""
    unknown = weights.unknown + max(weights.unknown_letter, 0.0) * (N_OOV_FACTORS - 1)
    return math.exp(limit_log(max(weights.word_bonus + max(unknown, 0.0), 0.0)))


@inner(forceinline=True)
def rescale(n: int, best: float, blanks: Any, symbols: Any) -> float:
    """Bring weights back into a float's range when they leave it. Returns the natural log taken out."""
    if _TOO_SMALL < best < _TOO_LARGE or best <= 0.0:
        return 0.0
    for i in range(n):
        blanks[i] /= best
        symbols[i] /= best
    return math.log(best)


@inner
def finish_search(
    beams: Any, contexts: Any, n: int, search: Any, scorer: Any, hotwords: Any, word_nodes: Any, counts: Any
) -> Any:
    """End the utterance: finish words, score the end of the sentence, merge beams of one text.

    Returns:
        FINAL records, best first; word_nodes (with room for n more) has received the last words.
    """
    finals = np.empty(n, FINAL)
    n_finals = 0
    scratch = np.empty(2, CONTEXT)
    order = sort_heaviest(weigh_lightest_ends(beams, n)) if search.split else np.arange(n)
    for i in order:
        weight = beams[i].blank + beams[i].symbol
        if weight <= 0.0:
            continue
        lm = beams[i].lm + score_end(beams[i], contexts[i], search.split, scorer, hotwords, scratch)
        text = hash_text(beams[i])
        slot = 0
        while slot < n_finals and finals[slot].text != text:
            slot += 1
        final = finals[slot]
        if slot == n_finals:
            n_finals += 1
            final.text, final.acoustic, final.heaviest = text, -np.inf, 0.0
        final.lm = lm  # equal for all beams of one text, except with pyctcdecode's rule: then the last counts
        final.acoustic = add_logs(final.acoustic, math.log(weight) - beams[i].lm)
        if weight > final.heaviest:
            final.heaviest = weight
            final.word_node = beams[i].word_node
            if beams[i].length > 0:
                final.word_node = append_word(beams[i], counts, word_nodes)
    return sort_finals(finals[:n_finals], math.log(search.prune) if search.split else -np.inf)


@inner
def sort_finals(finals: Any, prune: float) -> Any:
    """FINAL records, best first, without those more than -prune below the best."""
    scores, ordered, n_kept = np.empty(len(finals)), np.empty(len(finals), FINAL), 0
    for i in range(len(finals)):
        scores[i] = finals[i].acoustic + finals[i].lm
    order = sort_heaviest(scores)
    for i in range(len(finals)):
        ordered[i] = finals[order[i]]
        n_kept += scores[order[i]] >= scores[order[0]] + prune
    return ordered[:n_kept]


@inner
def sort_heaviest(weights: Any) -> Any:
    """Indices of weights from the highest to the lowest, equal ones in their order, by merging runs.

    numpy's sorts take seconds to compile.
    """
    order, merged, run = np.arange(len(weights)), np.empty(len(weights), np.int64), 1
    while run < len(weights):
        for begin in range(0, len(weights), 2 * run):
            middle, end = min(begin + run, len(weights)), min(begin + 2 * run, len(weights))
            left, right = begin, middle
            for at in range(begin, end):
                first = right == end or (left < middle and weights[order[left]] >= weights[order[right]])
                merged[at] = order[left if first else right]
                left, right = left + first, right + (not first)
        order, merged, run = merged, order, 2 * run
    return order


@inner
def weigh_lightest_ends(beams: Any, n: int) -> Any:
    """The lower of the weights of each beam's blank and symbol ends; the other one where it is zero."""
    weights = np.empty(n)
    for i in range(n):
        low, high = min(beams[i].blank, beams[i].symbol), max(beams[i].blank, beams[i].symbol)
        weights[i] = (low if low > 0.0 else high) * beams[i].factor
    return weights


@inner
def score_end(beam: Any, context: Any, split: bool, scorer: Any, hotwords: Any, scratch: Any) -> float:
    """Natural log of what the end of the utterance adds to a beam.

    A character model scores the space that would follow; a word model the end of the sentence.
    With `split`, an empty word is scored as an unknown one, which is pyctcdecode's rule.
    """
    score, ended = 0.0, context
    weights, memory, layout = scorer.weights[0], scorer.memory, scorer.layout
    if beam.length > 0:
        word, log10_prob = UNKNOWN, 0.0
        scratch[0].length = 0
        if weights.kind != NO_LM:
            word = identify_word(beam, weights.kind, scorer.token_words)
            log10_prob = score_word(memory, layout, weights.order, context, word, scratch[0])
        complete, ends_word = hotwords.complete, hotwords.ends_word
        score = weigh_word(beam, beam.letters, word, log10_prob, weights, complete, ends_word)
        ended = scratch[0]
    elif split and weights.kind == WORD_LM:
        log10_prob = score_word(memory, layout, weights.order, context, UNKNOWN, scratch[0])
        score = weights.weight * log10_prob + weights.unknown + weights.word_bonus
        ended = scratch[0]
    if weights.kind == WORD_LM and weights.eos >= 0:
        score += weights.weight * score_word(memory, layout, weights.order, ended, weights.eos, scratch[1])
    return score


@inner
def add_logs(a: float, b: float) -> float:
    """log(exp(a) + exp(b)), also of -inf."""
    high, low = max(a, b), min(a, b)
    return high if low == -np.inf else high + math.log1p(math.exp(low - high))

"""The data of the joint search of a decoder and CTC: hypotheses, their ends, tokens as labels, settings."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

HYPOTHESIS = np.dtype(
    [
        ("attention", np.float64),  # natural log of its tokens' probabilities
        ("words", np.float64),  # what language model, hotwords and word bonus added: natural log, weighted
        ("prefix", np.float64),  # natural log of the CTC probability that the letters begin with these
        ("unheard", np.float64),  # cost of words that CTC did not hear, weighted; 0 or less
        ("before", np.float64),  # `prefix` at the start of the unfinished word
        ("scale", np.float64),  # natural log of a factor of its numbers over frames
        ("total", np.float64),  # all of these, weighted
        ("rank", np.float64),  # total, and the bonus that a hotword in progress may still bring
        ("spelled", np.uint64),  # hash of its letters and of where words end
        ("lexicon", np.int32),  # node of the unfinished word; -1 outside
        ("hotword", np.int32),  # node of the hotwords' automaton; -1 outside
        ("length", np.int32),  # letters of the unfinished word
        ("n_letters", np.int32),
        ("n_marks", np.int32),  # tokens without letters since the last one with some
        ("last", np.int32),  # last label; -1 for none
        ("pending", np.int32),  # 1 where a delimiter comes before the next letter
        ("first", np.int32),  # its numbers are valid from this frame
        ("until", np.int32),  # to before this one
        ("slot", np.int32),  # where the numbers and its context are
        ("parent", np.int32),  # row of the step before
        ("token", np.int32),
        ("log_prob", np.float32),  # of the token
    ],
    align=True,
)

END = np.dtype(
    [
        ("score", np.float64),
        ("attention", np.float64),  # natural log of the tokens' probabilities, the end's included
        ("acoustic", np.float64),  # natural log of the CTC probability of the letters
        ("words", np.float64),
        ("spelled", np.uint64),  # hash of the words' letters
        ("step", np.int32),  # tokens before the end
        ("row", np.int32),  # of the step before; -1 where there was none
        ("log_prob", np.float32),  # of the end token
    ],
    align=True,
)

SETTINGS = np.dtype(
    [
        ("end_id", np.int64),
        ("max_candidates", np.int64),  # tokens that are tried after each
        ("max_marks", np.int64),  # tokens without letters in a row
        ("ctc_weight", np.float64),  # of a prefix's letters
        ("end_weight", np.float64),  # of the CTC probability that nothing follows
        ("word_bonus", np.float64),  # natural log, for every word
        ("unheard_weight", np.float64),  # of what a word's letters cost above the tolerance
        ("tolerance", np.float64),  # natural log that a letter may cost in CTC
        ("prune", np.float64),  # hypotheses so far below the best are dropped; natural log
        ("outlook", np.float64),  # no hypothesis is expected to gain more until its end
    ]
)

BOUNDARY = -1  # among a token's labels: a word ends here


class Spelling(NamedTuple):
    """The decoder's tokens as labels of the CTC vocabulary.

    Attributes:
        labels: int16, labels and BOUNDARY of all tokens, one token after the other.
        ends: int32 [n_tokens], where each token ends in them.
        n_letters: int32 [n_tokens].
        usable: uint8 [n_tokens], 0 for tokens that are never text, the end among them.
        favoured: int32, tokens that continue a hotword, by the automaton's node.
        favoured_ends: int32 [n_nodes], where those of a node end.
    """

    labels: Any
    ends: Any
    n_letters: Any
    usable: Any
    favoured: Any
    favoured_ends: Any


class Joint(NamedTuple):
    """One search of one utterance: what it reads, and what it changes from step to step.

    Attributes:
        pack: PACK [1], see engine.kernels.ctc.pack: language model, lexicon, hotwords, blank and delimiter.
        settings: SETTINGS [1].
        softened: float64 [vocab_size, n_frames], probabilities; see soften_emissions.
        rows: HYPOTHESIS [max_rows], those that go on, `counts[N_ROWS]` of them.
        spaced: HYPOTHESIS [max_rows], the same with a delimiter after them; made when first needed.
        children: HYPOTHESIS [max_rows + 1], best first; the last is scratch.
        free: int32 [max_rows + 1], slots that neither rows nor children have.
        contexts: CONTEXT [3 * max_rows + 2], of the language model, by slot; the last is scratch.
        symbols, blanks: float64 [3 * max_rows + 1, n_frames], numbers over frames, by slot: 2 * max_rows + 1
            for rows, children and one that is being made; then those of `spaced`.
        tokens, parents: int32 [max_steps, max_rows]: what was appended to which row. log_probs: float32.
        ends: END [n_best], best first, `counts[N_ENDS]` of them.
        counts: int64 [N_COUNTS].
    """

    pack: Any
    settings: Any
    softened: Any
    rows: Any
    spaced: Any
    children: Any
    free: Any
    contexts: Any
    symbols: Any
    blanks: Any
    tokens: Any
    parents: Any
    log_probs: Any
    ends: Any
    counts: Any


N_ROWS, N_CHILDREN, N_FREE, N_ENDS, N_COUNTS = range(5)

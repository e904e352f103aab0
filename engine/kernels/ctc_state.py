"""What the beam search holds: beams, the trees of spelled tokens and finished words, and its settings.

Weights are kept as plain numbers, not logarithms: `blank` and `symbol` are the probability of
all alignments that end in a blank or not, times exp(language model score), over a scale common
to all beams. Sums of alignments are then additions, and the search computes no logarithm at all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

BEAM = np.dtype(
    [
        ("text", np.uint64),  # hash of the finished words
        ("word", np.uint64),  # hash of the unfinished word
        ("key", np.uint64),  # hash of both: which prefix this is
        ("parent_key", np.uint64),  # the prefix one token shorter
        ("history", np.uint64),  # hash of what the language model still sees
        ("blank", np.float64),
        ("symbol", np.float64),
        ("lm", np.float64),  # natural log, weighted; of finished words and hotwords
        ("factor", np.float64),  # what ranking multiplies for the unfinished word
        ("lexicon", np.int32),  # node of the unfinished word; -1 outside
        ("hotword", np.int32),  # node of the hotwords' trie; -1 outside
        ("last", np.int32),  # last token; the delimiter for an empty prefix
        ("length", np.int32),  # tokens of the unfinished word
        ("token_node", np.int32),
        ("word_node", np.int32),
        ("start", np.int32),  # frame of the unfinished word's first token
        ("end", np.int32),  # frame behind its last token
        ("prob_sum", np.float32),  # of its tokens but the last
        ("peak", np.float32),  # highest probability of its last token
    ],
    align=True,
)

CANDIDATE = np.dtype(
    [
        ("rank", np.float64),  # what pruning compares
        ("blank", np.float64),
        ("symbol", np.float64),
        ("lm", np.float64),
        ("factor", np.float64),
        ("parent", np.int32),  # beam it came from
        ("token", np.int32),  # -1: the prefix stays
        ("lexicon", np.int32),
        ("hotword", np.int32),
        ("slot", np.int32),  # its new language model context; -1: the parent's
        ("source", np.int32),  # beam that a better alignment of a staying prefix came from; -1
    ],
    align=True,
)

TOKEN_NODE = np.dtype([("parent", np.int32), ("token", np.int32)])
WORD_NODE = np.dtype(
    [
        ("parent", np.int32),
        ("token_node", np.int32),
        ("length", np.int32),
        ("start", np.int32),
        ("end", np.int32),
        ("confidence", np.float32),
    ]
)

NO_LM, WORD_LM, CHAR_LM = 0, 1, 2
N_OOV_FACTORS = 64  # unknown words longer than this rank like this
N_LOOKAHEAD = 256


class Search(NamedTuple):
    """Settings of one search.

    Attributes:
        beam_width: prefixes kept (with split, prefixes counted once for each kind of end).
        blank, delimiter: token ids; delimiter -1 where there is none.
        token_min: natural log; tokens below it are passed over, unless the frame's best.
        prune: beams below this fraction of the best are dropped.
        split: rank a prefix's blank and symbol ends apart, as pyctcdecode does.
        recombine: keep one prefix for each state that the future can tell apart.
    """

    beam_width: int
    blank: int
    delimiter: int
    token_min: float
    prune: float
    split: bool
    recombine: bool


WEIGHTS = np.dtype(
    [
        ("kind", np.int64),  # NO_LM, WORD_LM or CHAR_LM
        ("order", np.int64),
        ("bos", np.int64),  # ids of <s> and </s>; -1 to score no boundary
        ("eos", np.int64),
        ("weight", np.float64),  # lm_alpha * ln 10
        ("word_bonus", np.float64),  # lm_beta
        ("unknown", np.float64),  # added for a word outside the lexicon: natural log, weighted
        ("unknown_letter", np.float64),  # added for each of its tokens
    ]
)


class Scorer(NamedTuple):
    """The language model and its weights.

    Attributes:
        memory, layout: see engine.kernels.ngram.
        token_words: int32 [vocab_size + 1], for a character model: the id of each token, and
            behind them that of the space between words.
        weights: WEIGHTS [1].
    """

    memory: Any
    layout: Any
    token_words: Any
    weights: Any


LEXICON_NODE = np.dtype(
    [
        ("children", np.uint64),  # bit token % 64 is set for every child's token
        ("first", np.int32),  # the first child; the next node's first child ends them
        ("lookahead", np.int32),  # how likely the best word below is: see the lexicon's builder
    ]
)


class Lexicon(NamedTuple):
    """Trie of the known words in breadth-first order.

    Attributes:
        nodes: LEXICON_NODE [n_nodes + 1]; of the last only `first` counts.
        label: int16 [n_nodes], the token that leads to a node; children are sorted by it.
        word: int32 [n_nodes], language model id of the word that ends here; 0 for none.
        distinct: no two tokens share a bit of `children`.
        factors: float64 [N_LOOKAHEAD], what ranking multiplies for a lookahead value.
        unknown_factors: float64 [N_OOV_FACTORS], the same for an unknown word by its length.
        highest: no word or beginning of one has a larger factor.
    """

    nodes: Any
    label: Any
    word: Any
    distinct: bool
    factors: Any
    unknown_factors: Any
    highest: float


class Hotwords(NamedTuple):
    """Automaton of the favoured words and phrases; node 0 is the start of a word.

    Attributes:
        follow: int32 [n_nodes, vocab_size], the next node; -1 for none before the next word.
        factors: float64 [n_nodes], what ranking multiplies for a phrase in progress.
        complete: float64 [n_nodes], natural-log bonus when a word ends here.
        ends_word: uint8 [n_nodes], 1 where a word of some phrase ends: it is not unknown.
        highest: the most that the end of one word can earn, natural log; 0 or more.
    """

    follow: Any
    factors: Any
    complete: Any
    ends_word: Any
    highest: float


KNOWN_SCORE = np.dtype([("key", np.uint64), ("score", np.float64)])  # hash of context and word; log10
N_KNOWN = 1024


class Work(NamedTuple):
    """Scratch of one search: nothing in it outlives a frame, but `counts`.

    Attributes:
        tokens: int32 [vocab_size], the frame's tokens.
        probs: float64 [vocab_size], their probabilities over the best one's; 0 for the others.
        table: int32 [power of two], hash table of the prefixes.
        parents, children: int32 [beam_width], which beams are one token shorter or longer.
        candidates: CANDIDATE [beam_width * (tokens + 1)].
        slots: CONTEXT, new language model contexts.
        chosen: int32 [len(candidates)].
        seen: int32 [power of two], hash table of states.
        known: KNOWN_SCORE [N_KNOWN], scores of words in context that were looked up before.
        known_contexts: CONTEXT [N_KNOWN], the contexts behind them.
        counts: int64 [N_COUNTS].
    """

    tokens: Any
    probs: Any
    table: Any
    parents: Any
    children: Any
    candidates: Any
    slots: Any
    chosen: Any
    seen: Any
    known: Any
    known_contexts: Any
    counts: Any


N_CANDIDATES, N_SLOTS, N_TOKEN_NODES, N_WORD_NODES, N_COUNTS = 0, 1, 2, 3, 4

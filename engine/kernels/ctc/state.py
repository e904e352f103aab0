"""What the beam search holds: beams, the trees of spelled tokens and finished words, and its settings.

Weights are plain numbers, not logarithms: `blank` and `symbol` are the probability of all alignments
that end in a blank or not, times exp(language model score), divided by a scale common to all beams.
Alignments are summed by additions, and the search computes no logarithm at all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

BEAM = np.dtype(
    [  # first, what extending a beam reads
        ("children", np.uint64),  # copied from the lexicon's node: most frames do not read the lexicon
        ("history", np.uint64),  # hash of the language model's context
        ("lm", np.float64),  # natural log, weighted; of finished words and hotwords
        ("lexicon", np.int32),  # node of the unfinished word; -1 outside
        ("first", np.int32),  # its first child
        ("word_id", np.int32),  # the language model's id of the word that ends there; 0 for none
        ("context", np.int32),  # place of the language model's context, while frames are searched
        ("hotword", np.int32),  # node of the hotwords' trie; -1 outside
        ("length", np.int32),  # tokens of the unfinished word
        ("letters", np.int16),  # its letters, up to MAX_LETTERS: as many, unless tokens are pieces of words
        ("last", np.int16),  # last token; the delimiter for an empty prefix
        ("token_node", np.int32),
        ("word_node", np.int32),
        ("parent", np.int32),  # the beam whose prefix is one token shorter; -1 if there is none
        ("text", np.uint64),  # hash of the finished words
        ("word", np.uint64),  # hash of the unfinished word
        ("key", np.uint64),  # hash of both: which prefix this is
        ("parent_key", np.uint64),  # the prefix one token shorter
        ("blank", np.float64),
        ("symbol", np.float64),
        ("factor", np.float64),  # the rank's factor for the unfinished word
        ("bound", np.float64),  # no next letter makes that factor larger than this
        ("start", np.int32),  # frame of the unfinished word's first token
        ("end", np.int32),  # frame after its last token
        ("prob_sum", np.float32),  # of its tokens but the last
        ("peak", np.float32),  # highest probability of its last token
    ],
    align=True,
)

CANDIDATE = np.dtype(
    [
        ("lm", np.float64),
        ("bound", np.float64),
        ("parent", np.int32),  # beam it came from
        ("slot", np.int32),  # where that beam's record is
        ("token", np.int32),
        ("lexicon", np.int32),
        ("hotword", np.int32),
        ("context", np.int32),
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
MAX_LETTERS = 1 << 14  # of one word; more are not counted
OPENS_WORD = 2  # in `spoken`: a token that begins a word
AVERAGE_WORD_LENGTH = 6  # pyctcdecode's: an unknown beginning longer than this costs more
N_OOV_FACTORS = 64  # unknown words longer than this rank like this
N_LOOKAHEAD = 256


class Search(NamedTuple):
    """Settings of one search.

    Attributes:
        beam_width: most prefixes that survive a frame (with split, counted once for each kind of end).
        blank, delimiter: token ids; delimiter -1 where there is none.
        space: the hotwords' letter between words; the delimiter, where tokens are letters.
        pieces: tokens are pieces of words; see Pieces.
        token_min: natural log; tokens below it are skipped, except the frame's best.
        prune: beams below this fraction of the best are dropped.
        split: rank a prefix's blank and symbol ends separately, as pyctcdecode does.
        recombine: of prefixes that are the same for all later frames and words, keep the best.
    """

    beam_width: int
    blank: int
    delimiter: int
    space: int
    pieces: bool
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
        memory, layout: see engine.kernels.ctc.ngram.
        token_words: int32 [vocab_size + 1], for a character model: the id of each token, and at the
            end that of the space between words.
        weights: WEIGHTS [1].
    """

    memory: Any
    layout: Any
    token_words: Any
    weights: Any


LEXICON_NODE = np.dtype(
    [
        ("children", np.uint64),  # bit letter % 64 is set for every child's letter
        ("first", np.int32),  # the first child; the next node's first child ends them
        ("word", np.int32),  # language model id of the word that ends here; 0 for none
    ]
)


class Lexicon(NamedTuple):
    """Trie of the known words in breadth-first order.

    Attributes:
        nodes: LEXICON_NODE [n_nodes + 1]; only `first` of the last is used.
        label: int16 [n_nodes], the letter that leads to a node; children are sorted by it.
        lookahead: uint8 [n_nodes], how likely the best word below is: see the lexicon's builder.
        distinct: no two letters share a bit of `children`.
        factors: float64 [N_LOOKAHEAD], the rank's factor for a lookahead value.
        unknown_factors: float64 [N_OOV_FACTORS], the same for an unknown word by its length.
        highest: no word or beginning of one has a larger factor.
    """

    nodes: Any
    label: Any
    lookahead: Any
    distinct: bool
    factors: Any
    unknown_factors: Any
    highest: float


class Pieces(NamedTuple):
    """How tokens are spelled, and what they are.

    Attributes:
        spoken: uint8 [vocab_size], 0 for labels that are never text, 1 for text, OPENS_WORD for labels that
            begin a word. The others are read only where tokens are pieces of words:
        letters: int16, numbers of the letters of all tokens, one token after the other.
        ends: int32 [vocab_size + 1], where each token's letters begin and end.
        entries: int32 [vocab_size], the lexicon's node that a token leads to at the start of a word; -1.
        powers, sums: uint64 [vocab_size]; the hash of a word with one more token is hash * power + sum. It
            depends on the letters alone.
    """

    spoken: Any
    letters: Any
    ends: Any
    entries: Any
    powers: Any
    sums: Any


class Hotwords(NamedTuple):
    """Automaton of the favoured words and phrases; node 0 is the start of a word.

    Attributes:
        follow: int32 [n_nodes, n_letters, with that for the space], the next node; -1 for none before the
            next word.
        factors: float64 [n_nodes], the rank's factor for a phrase in progress.
        complete: float64 [n_nodes], natural-log bonus when a word ends here.
        ends_word: uint8 [n_nodes], 1 where a word of some phrase ends: it is not unknown.
        highest: the largest bonus for the end of one word, natural log; 0 or more.
    """

    follow: Any
    factors: Any
    complete: Any
    ends_word: Any
    highest: float


KNOWN_SCORE = np.dtype(
    [
        ("key", np.uint64),  # hash of a context and a word
        ("history", np.uint64),  # hash of the context after it
        ("score", np.float64),  # log10
        ("gain", np.float64),  # the weight's factor for it, without hotwords and unknown words
    ]
)
N_KNOWN = 512  # a power of two
N_ADOPTERS = 64  # words of 64 bits
MAX_ADOPTED = 512  # bits set before they are cleared


class Work(NamedTuple):
    """Scratch of one search: only `counts` outlives a chunk of frames.

    What every frame reads of every beam is in separate arrays, for vector code. The rest is in BEAM records,
    in slots that do not change while a beam exists: in most frames most records stay as they are. While
    frames are searched, these arrays are valid, and blank, symbol, factor, bound and parent of the records
    are not.

    Attributes:
        tokens: int32 [vocab_size], the frame's tokens.
        probs: float64 [vocab_size + 1], their probabilities divided by the best one's; 0 for other tokens.
            The last place belongs to a prefix without a last token.
        columns: int32 [vocab_size + 1], the index of each in `tokens`; -1 for other tokens.
        blanks, symbols, factors, bounds, lms: float64 [beam_width], these fields of the beams.
        lasts: uint32 [beam_width], their last tokens; vocab_size for none.
        parents: int32 [beam_width], which beam is one token shorter; -1; parent_keys: uint64, its hash.
        slots: int32 [beam_width], where their records are.
        free: int32 [2 * beam_width], the slots that no beam has; half of them are always free, so that
            new beams never overwrite those they are made from.
        weights: float64 [beam_width], those of one token after each beam.
        taken: uint64 [tokens * words of 64 bits], for each of the frame's tokens a bit for each beam: whether
            the prefix that is longer by that token is a beam itself.
        reached, held: uint64 [words of 64 bits], a bit for each beam; see stay and rank_stays.
        moved: int32 [beam_width + 1]; at i + 1 the index of beam i among the next beams, or -1; at 0, -1.
        sources: int32 [beam_width], beam that a better alignment of a staying prefix came from; -1.
        retimed: int32 [beam_width], the staying beams with such a source; and what their times become,
            sums: float32, starts: int32 (for the end of a word, its new node); ended: int32 [beam_width], the
            new node of the word before, where the last token begins one.
        dropped: int32 [beam_width + 1], slots of the beams that do not stay.
        gains, gain_lms: float64 [beam_width], see engine.kernels.ctc.pieces.end_words.
        places: int32 [beam_width], for the end of a beam's word the place in `known`; -1 for none yet.
        adopters: uint64 [N_ADOPTERS], a bit, by its hash, for each prefix that some beam is one token longer
            than, and for some others: those of beams dropped since it was last cleared.
        candidates: CANDIDATE [beam_width * (tokens + 1)]; the first, one for each beam, are the unchanged
            prefixes, and have no record.
        ranks: float64 [len(candidates)], what pruning compares.
        new_blanks, new_symbols, new_factors: float64 [len(candidates)].
        chosen: int32 [len(candidates)]; values: float64 [len(candidates)], their ranks.
        seen: int32 [power of two], hash table of states.
        table: int32 [N_KNOWN], the place in `known` of a word in its context, by its hash.
        known: KNOWN_SCORE, the language model's scores; contexts: CONTEXT, the contexts after them.
        counts: int64 [N_COUNTS].
    """

    tokens: Any
    probs: Any
    columns: Any
    blanks: Any
    symbols: Any
    factors: Any
    bounds: Any
    lms: Any
    lasts: Any
    parents: Any
    parent_keys: Any
    slots: Any
    free: Any
    weights: Any
    taken: Any
    reached: Any
    held: Any
    moved: Any
    sources: Any
    retimed: Any
    sums: Any
    starts: Any
    ended: Any
    dropped: Any
    gains: Any
    gain_lms: Any
    places: Any
    adopters: Any
    candidates: Any
    ranks: Any
    new_blanks: Any
    new_symbols: Any
    new_factors: Any
    chosen: Any
    values: Any
    seen: Any
    table: Any
    known: Any
    contexts: Any
    counts: Any


N_CANDIDATES, N_CONTEXTS, N_TOKEN_NODES, N_WORD_NODES, N_FREE, N_ADOPTED, N_COUNTS = range(7)

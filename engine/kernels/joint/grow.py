"""How a hypothesis of the joint search grows by a token: letters by CTC, words, hotwords."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.kernels._jit import inner
from engine.kernels.ctc.extend import find_child, follow_delimiter, mix_hash, weigh_word
from engine.kernels.ctc.ngram import UNKNOWN, score_word, start_context
from engine.kernels.ctc.prefix import begin_prefix, extend_prefix, rescale_prefix
from engine.kernels.ctc.state import NO_LM
from engine.kernels.joint.state import BOUNDARY

FAVOUR_TOLERANCE = 1.0  # natural log that a hotword's letter may cost in CTC before the bonus is less
WORD_END = np.uint64(1)  # in the hash of a text; labels follow


@inner
def begin_hypothesis(row: Any, joint: Any, scorer: Any, blank: int) -> None:
    """Make a row the empty text, in slot 0."""
    row.attention = row.words = row.unheard = row.before = row.prefix = row.scale = row.total = row.rank = 0.0
    row.spelled, row.log_prob = np.uint64(0), 0.0
    row.lexicon = row.hotword = row.length = row.n_letters = row.n_marks = row.pending = row.slot = 0
    row.first, row.last, row.parent, row.token = 0, -1, -1, -1
    row.until = begin_prefix(joint.softened[blank], joint.symbols[0], joint.blanks[0])
    joint.contexts[0].length = 0
    if scorer.weights[0].kind != NO_LM:
        start_context(scorer.memory, scorer.layout, scorer.weights[0].bos, joint.contexts[0])


@inner
def score_last_word(row: Any, context: Any, joint: Any, scorer: Any, lexicon: Any, hotwords: Any) -> Any:
    """What ending a row's unfinished word adds: natural log, weighted.

    context: CONTEXT before the word; the one after it is written to the last of joint.contexts.
    """
    weights, log10_prob = scorer.weights[0], 0.0
    word: Any = UNKNOWN
    if weights.kind != NO_LM:
        if row.lexicon >= 0:
            word = np.int64(lexicon.nodes[row.lexicon].word)
        extended = joint.contexts[len(joint.contexts) - 1]
        log10_prob = score_word(scorer.memory, scorer.layout, weights.order, context, word, extended)
    complete, ends_word = hotwords.complete, hotwords.ends_word
    score = weigh_word(row, row.length, word, log10_prob, weights, complete, ends_word)
    favour = hotwords.complete[row.hotword] if row.hotword >= 0 else 0.0
    if favour > 0.0:
        score -= min(
            favour, find_excess(row, FAVOUR_TOLERANCE)
        )  # a bonus is for words that may have been said
    return score + joint.settings[0].word_bonus


@inner
def find_excess(row: Any, tolerance: float) -> Any:
    """What a row's unfinished word costs in CTC above `tolerance` per letter: natural log, 0 or more."""
    return max(0.0, row.before - row.prefix - tolerance * (row.length + 1))


@inner
def weigh_unheard(row: Any, settings: Any) -> Any:
    """What a row's unfinished word adds because it was not heard: natural log, weighted; 0 or less."""
    return -settings.unheard_weight * find_excess(row, settings.tolerance)


@inner
def end_word(
    row: Any, target: int, joint: Any, scorer: Any, lexicon: Any, hotwords: Any, delimiter: int
) -> None:
    """A row's word ends, if one is unfinished: it is scored, and a delimiter is due. Its context is in slot
    `target`."""
    if row.length > 0:
        row.words += score_last_word(row, joint.contexts[target], joint, scorer, lexicon, hotwords)
        joint.contexts[target] = joint.contexts[len(joint.contexts) - 1]
        row.hotword = follow_delimiter(hotwords.follow, row.hotword, delimiter)
        row.unheard += weigh_unheard(row, joint.settings[0])
        row.spelled = mix_hash(row.spelled, WORD_END)
        row.before, row.lexicon, row.length = row.prefix, 0, 0
    row.pending = 1 if row.n_letters > 0 else 0


@inner
def append_label(row: Any, label: int, target: int, joint: Any, blank: int) -> bool:
    """Append a label to a row's numbers, which move to slot `target`; False where they become zero."""
    symbols, blanks, source = joint.symbols, joint.blanks, row.slot
    total, first, until = extend_prefix(
        symbols[source], blanks[source], row.first, row.until, 1.0 if row.last < 0 else 0.0,
        label == row.last, joint.softened[label], joint.softened[blank], symbols[target], blanks[target],
    )  # fmt: skip
    if total <= 0.0 or first >= until:
        return False
    row.prefix = row.scale + math.log(total)
    row.scale += math.log(rescale_prefix(symbols[target], blanks[target], first, until, total))
    row.first, row.until, row.last, row.slot = first, until, label, target
    return True


@inner
def append_due_delimiter(row: Any, target: int, joint: Any, search: Any) -> Any:
    """Append the label between words, where it is due; False where the row's numbers become zero."""
    if row.pending == 0 or search.delimiter < 0:
        return True
    row.pending = 0
    return append_label(row, search.delimiter, target, joint, search.blank)


@inner
def append_token(
    row: Any, labels: Any, begin: int, end: int, target: int, joint: Any, search: Any, scorer: Any,
    lexicon: Any, hotwords: Any,
) -> bool:  # fmt: skip
    """Append labels begin to end of a token to a row, whose numbers and context move to slot `target`.

    Returns:
        False where the row's numbers become zero: these letters cannot be in the utterance.
    """
    joint.contexts[target] = joint.contexts[row.slot]
    for at in range(begin, end):
        label = np.int64(labels[at])
        if label == BOUNDARY:
            end_word(row, target, joint, scorer, lexicon, hotwords, search.delimiter)
            continue
        if not append_due_delimiter(row, target, joint, search):
            return False
        row.lexicon = find_child(lexicon.nodes, lexicon.label, lexicon.distinct, row.lexicon, label)
        row.hotword = hotwords.follow[row.hotword, label] if row.hotword >= 0 else -1
        row.spelled = mix_hash(row.spelled, np.uint64(label + 2))
        row.length += 1
        row.n_letters += 1
        if not append_label(row, label, target, joint, search.blank):
            return False
    move_numbers(row, target, joint)
    return True


@inner
def move_numbers(row: Any, target: int, joint: Any) -> None:
    """Copy a row's numbers to slot `target`, if they are not there."""
    source = row.slot
    if source != target:
        for frame in range(row.first, row.until):
            joint.symbols[target, frame] = joint.symbols[source, frame]
            joint.blanks[target, frame] = joint.blanks[source, frame]
        row.slot = target

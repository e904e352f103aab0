"""One step of the joint search: ends are scored, rows grow by a token, the best of them continue."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from engine.kernels._jit import inner, kernel
from engine.kernels.ctc.extend import follow_delimiter, mix_hash
from engine.kernels.ctc.pack import unpack_hotwords, unpack_lexicon, unpack_scorer, unpack_search
from engine.kernels.joint.grow import (
    WORD_END,
    append_due_delimiter,
    append_token,
    begin_hypothesis,
    end_word,
    move_numbers,
    score_last_word,
    weigh_unheard,
)
from engine.kernels.joint.state import BOUNDARY, N_CHILDREN, N_ENDS, N_FREE, N_ROWS
from engine.kernels.seq2seq.top_tokens import top_tokens

NEVER = -np.inf


@kernel
def begin_joint(joint: Any) -> None:
    """Make the empty text the only row."""
    begin_hypothesis(joint.rows[0], joint, unpack_scorer(joint.pack[0]), unpack_search(joint.pack[0]).blank)
    joint.counts[N_ROWS], joint.counts[N_ENDS] = 1, 0


@kernel
def step_joint(joint: Any, spelling: Any, log_probs: Any, step: int, ids: Any, parents: Any) -> Any:
    """Use the decoder's log-probabilities of the next token of every row.

    Every row is scored as if it ended here, and grows by its likeliest tokens; the best of the results are
    the rows of the next step.

    Args:
        joint, spelling: see engine.kernels.joint.state.
        log_probs: float32 [n_rows, n_tokens], natural log; overwritten.
        step: tokens of each row.
        ids, parents: int64 [max_rows]; written: the token of each next row, and the row that it continues.
    Returns:
        How many rows continue; 0 where no row can still become better than the last of n_best ends.
    """
    pack = joint.pack[0]
    search, scorer = unpack_search(pack), unpack_scorer(pack)
    lexicon, hotwords = unpack_lexicon(pack), unpack_hotwords(pack)
    n_rows = joint.counts[N_ROWS]
    for at in range(n_rows):
        score_end(joint, at, log_probs[at, joint.settings[0].end_id], step, scorer, lexicon, hotwords)
    bounds, owners, tokens, values = list_candidates(joint, spelling, log_probs, search, hotwords)
    free_slots(joint)
    while len(bounds):
        best = np.argmax(bounds)
        if not bounds[best] > find_floor(joint):
            break
        bounds[best] = NEVER
        owner, token = owners[best], tokens[best]
        if grow_row(joint, spelling, owner, token, values[best], search, scorer, lexicon, hotwords):
            insert_child(joint)
    return adopt_children(joint, step, ids, parents)


@inner
def score_end(
    joint: Any, at: int, log_prob: float, step: int, scorer: Any, lexicon: Any, hotwords: Any
) -> None:
    """Note the text of a row as one of the ends, if it is among the best.

    Its CTC score is the probability that these letters are all that was said: almost none for a text that
    leaves out what CTC heard.
    """
    row, settings, n_frames = joint.rows[at], joint.settings[0], joint.softened.shape[1]
    if row.until < n_frames:
        return
    whole = joint.symbols[row.slot, n_frames - 1] + joint.blanks[row.slot, n_frames - 1]
    if whole <= 0.0:
        return
    acoustic, attention, words = row.scale + math.log(whole), row.attention + log_prob, row.words
    score, spelled = row.unheard + settings.ctc_weight * row.prefix, row.spelled
    if row.length > 0:
        words += score_last_word(row, joint.contexts[row.slot], joint, scorer, lexicon, hotwords)
        score += weigh_unheard(row, settings)
        spelled = mix_hash(spelled, WORD_END)
    score += attention + words + settings.end_weight * (acoustic - row.prefix)
    place = find_place(joint.ends, joint.counts[N_ENDS], spelled, score)
    if place < 0:
        return
    joint.counts[N_ENDS] = make_place(joint.ends, joint.counts[N_ENDS], spelled, place)
    end = joint.ends[place]
    end.score, end.attention, end.acoustic, end.words = score, attention, acoustic, words
    end.spelled, end.step, end.row, end.log_prob = spelled, step, at, log_prob


@inner
def find_place(ends: Any, n: int, spelled: Any, score: float) -> Any:
    """The place of a score among n sorted ends; -1 for none, or if the words have a better one there."""
    place = n
    for at in range(n - 1, -1, -1):
        if ends[at].spelled == spelled and ends[at].score >= score:
            return -1
        if ends[at].score < score:
            place = at
    return place if place < len(ends) else -1


@inner
def make_place(ends: Any, n: int, spelled: Any, place: int) -> Any:
    """Move ends from `place` on by one, over one of the same words or the last; returns their number."""
    last = place
    while last < n and ends[last].spelled != spelled:
        last += 1
    n = max(n, min(last, len(ends) - 1) + 1)
    for at in range(min(last, len(ends) - 1), place, -1):
        ends[at] = ends[at - 1]
    return n


@inner
def list_candidates(joint: Any, spelling: Any, log_probs: Any, search: Any, hotwords: Any) -> Any:
    """The likeliest next tokens of every row, and those that continue a hotword.

    Returns:
        Of each candidate: an upper bound of its rank, float64; its row and token, int64; the token's
        log-probability, float32.
    """
    n_rows, settings, n_tokens = joint.counts[N_ROWS], joint.settings[0], log_probs.shape[1]
    n_top = min(settings.max_candidates, n_tokens - 1)
    scores, ids = np.empty((n_rows, n_top), np.float32), np.empty((n_rows, n_top), np.int64)
    top_tokens(log_probs[:n_rows], settings.end_id, scores, ids)
    n_most = n_rows * n_top
    for at in range(n_rows):
        n_most += count_favoured(joint.rows[at].hotword, spelling)
    bounds, values = np.empty(n_most), np.empty(n_most, np.float32)
    owners, tokens = np.empty(n_most, np.int64), np.empty(n_most, np.int64)
    n = 0
    for at in range(n_rows):
        row = joint.rows[at]
        n_favoured = count_favoured(row.hotword, spelling)
        for rank in range(n_top + n_favoured):
            if rank < n_top:
                token, value = ids[at, rank], scores[at, rank]
            else:
                token = np.int64(find_favoured(row.hotword, rank - n_top, spelling))
                value = log_probs[at, token]  # -inf for those taken above
            if value == NEVER or spelling.usable[token] == 0:
                continue
            if spelling.n_letters[token] == 0 and row.n_marks >= settings.max_marks:
                continue
            bounds[n] = row.total + value + foresee(row, token, spelling, settings, search, hotwords)
            owners[n], tokens[n], values[n] = at, token, value
            n += 1
    return bounds[:n], owners[:n], tokens[:n], values[:n]


@inner
def count_favoured(hotword: int, spelling: Any) -> Any:
    """How many tokens continue a hotword in progress, or begin one."""
    ends = spelling.favoured_ends
    if len(ends) == 0:
        return 0
    return ends[0] + (ends[hotword] - ends[hotword - 1] if hotword > 0 else 0)


@inner
def find_favoured(hotword: int, index: int, spelling: Any) -> Any:
    """One of these tokens."""
    n_begin = spelling.favoured_ends[0]
    if index < n_begin:
        return spelling.favoured[index]
    return spelling.favoured[spelling.favoured_ends[hotword - 1] + index - n_begin]


@inner
def foresee(row: Any, token: int, spelling: Any, settings: Any, search: Any, hotwords: Any) -> Any:
    """The most that a token adds to a row's rank besides its probability: hotwords, words that end."""
    node, length, gain = row.hotword, row.length, 0.0
    for at in range(spelling.ends[token - 1] if token else 0, spelling.ends[token]):
        label = np.int64(spelling.labels[at])
        if label != BOUNDARY:
            node = hotwords.follow[node, label] if node >= 0 else -1
            length += 1
        elif length > 0:
            gain += settings.word_bonus + (hotwords.complete[node] if node >= 0 else 0.0)
            node, length = follow_delimiter(hotwords.follow, node, search.delimiter), 0
    return gain + credit_hotword(node, hotwords)


@inner
def credit_hotword(node: int, hotwords: Any) -> Any:
    """Natural log that a hotword in progress adds to a rank."""
    return math.log(hotwords.factors[node]) if node > 0 else 0.0


@inner
def find_floor(joint: Any) -> Any:
    """The rank that a child needs to continue."""
    n, settings = joint.counts[N_CHILDREN], joint.settings[0]
    floor = NEVER
    if n > 0:
        floor = joint.children[0].rank - settings.prune
    if n == len(joint.rows):
        floor = max(floor, joint.children[n - 1].rank)
    if joint.counts[N_ENDS] == len(joint.ends):
        floor = max(floor, joint.ends[len(joint.ends) - 1].score - settings.outlook)
    return floor


@inner
def free_slots(joint: Any) -> None:
    """Remove all children: slots that the rows do not have are free."""
    n = 0
    for slot in range(2 * len(joint.rows) + 1):
        taken = False
        for at in range(joint.counts[N_ROWS]):
            taken |= joint.rows[at].slot == slot
        if not taken and n < len(joint.free):
            joint.free[n] = slot
            n += 1
    joint.counts[N_FREE], joint.counts[N_CHILDREN] = n, 0
    for at in range(len(joint.spaced)):
        joint.spaced[at].slot = -1


@inner
def grow_row(
    joint: Any, spelling: Any, owner: int, token: int, value: float, search: Any, scorer: Any, lexicon: Any,
    hotwords: Any,
) -> bool:  # fmt: skip
    """Make the last of joint.children a row plus a token; False where that cannot have been said."""
    n_rows, settings = len(joint.rows), joint.settings[0]
    child = joint.children[n_rows]
    begin, end = np.int64(spelling.ends[token - 1] if token else 0), np.int64(spelling.ends[token])
    target = np.int64(joint.free[joint.counts[N_FREE] - 1])
    joint.children[n_rows] = joint.rows[owner]
    if spelling.n_letters[token] > 0 and (child.pending != 0 or spelling.labels[begin] == BOUNDARY):
        if joint.spaced[owner].slot < 0 and not make_spaced(joint, owner, search, scorer, lexicon, hotwords):
            return False
        joint.children[n_rows] = joint.spaced[owner]
        begin += spelling.labels[begin] == BOUNDARY
    if not append_token(child, spelling.labels, begin, end, target, joint, search, scorer, lexicon, hotwords):
        return False
    child.n_marks = 0 if spelling.n_letters[token] > 0 else child.n_marks + 1
    child.attention += value
    child.token, child.parent, child.log_prob = token, owner, value
    child.total = child.attention + settings.ctc_weight * child.prefix + child.words + child.unheard
    child.rank = child.total + credit_hotword(child.hotword, hotwords) + weigh_unheard(child, settings)
    return True


@inner
def make_spaced(joint: Any, owner: int, search: Any, scorer: Any, lexicon: Any, hotwords: Any) -> bool:
    """Make a row's copy with the delimiter after it; False where that cannot have been said."""
    joint.spaced[owner] = joint.rows[owner]
    spaced, target = joint.spaced[owner], np.int64(2 * len(joint.rows) + 1 + owner)
    joint.contexts[target] = joint.contexts[spaced.slot]
    end_word(spaced, target, joint, scorer, lexicon, hotwords, search.delimiter)
    if not append_due_delimiter(spaced, target, joint, search):
        spaced.slot = -1
        return False
    move_numbers(spaced, target, joint)
    return True


@inner
def insert_child(joint: Any) -> None:
    """Put the last of joint.children among those before it, if it is good enough; of equal letters one stays.

    Otherwise texts that differ only in capitals and punctuation would fill the rows.
    """
    children, n, spare = joint.children, joint.counts[N_CHILDREN], len(joint.rows)
    rank, gone = children[spare].rank, n
    for at in range(n):
        if children[at].spelled == children[spare].spelled:
            gone = at
    if not rank > find_floor(joint) or (gone < n and children[gone].rank >= rank):
        return
    if gone == n and n == spare:
        gone = n - 1
    if gone < n:
        joint.free[joint.counts[N_FREE] - 1] = children[gone].slot
    else:
        joint.counts[N_FREE] -= 1
        joint.counts[N_CHILDREN] += 1
    while gone > 0 and children[gone - 1].rank < rank:
        children[gone] = children[gone - 1]
        gone -= 1
    children[gone] = children[spare]


@inner
def adopt_children(joint: Any, step: int, ids: Any, parents: Any) -> Any:
    """Make the children that are still good enough the rows; returns how many."""
    settings, n, floor = joint.settings[0], 0, NEVER
    if joint.counts[N_CHILDREN] > 0:
        floor = joint.children[0].rank - settings.prune
    if joint.counts[N_ENDS] == len(joint.ends):
        floor = max(floor, joint.ends[len(joint.ends) - 1].score - settings.outlook)
    while n < joint.counts[N_CHILDREN] and joint.children[n].rank > floor:
        child = joint.children[n]
        joint.rows[n] = joint.children[n]
        joint.tokens[step, n], joint.parents[step, n] = child.token, child.parent
        joint.log_probs[step, n] = child.log_prob
        ids[n], parents[n] = child.token, child.parent
        n += 1
    joint.counts[N_ROWS] = n
    return n

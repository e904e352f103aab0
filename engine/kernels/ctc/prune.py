"""Which candidates of a frame survive."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from engine.kernels._jit import inner, kernel
from engine.kernels.ctc.extend import EMPTY, count_ones, hash_token, mix_hash
from engine.kernels.ctc.pieces import merge_alike, spell_on
from engine.kernels.ctc.state import N_CANDIDATES
from engine.kernels.ctc.stay import lowest_bits
from engine.kernels.vector import lanes

_HALF = np.uint64(32)
_SMALLEST = 5e-324
_PLACES = np.zeros((256, lanes.LANES), np.uint8)  # for eight bits, which of them are set
for _bits in range(256):
    _set = [place for place in range(lanes.LANES) if _bits >> place & 1]
    _PLACES[_bits, : len(_set)] = _set


@inner(forceinline=True)
def prune(beams: Any, n_before: int, best: float, search: Any, work: Any, pieces: Any) -> Any:
    """Choose the candidates that survive: work.chosen[:n] in ascending order. Returns n."""
    floor = best * search.prune
    if search.split:
        if search.pieces:
            list_all(work)
            merge_alike(beams, n_before, work.counts[N_CANDIDATES], search.delimiter, work, pieces)
        return prune_split(floor, search.beam_width, work)
    ranks, chosen, limit, n_candidates = work.ranks, work.chosen, search.beam_width, work.counts[N_CANDIDATES]
    floor = max(floor, _SMALLEST)
    n = list_at_least(ranks, n_candidates, floor, chosen)
    if search.pieces and n > 1:
        n = merge_alike(beams, n_before, n, search.delimiter, work, pieces)
    if search.recombine and n > 1:
        n = recombine(beams, n_before, n, search, work, pieces)
    if n <= limit:
        return n
    if not (search.recombine or search.pieces):  # those chosen are all of this rank: list them once more
        lanes.store(ranks.ctypes.data + 8 * n_candidates, lanes.splat(0.0))
        least, n_least = part(ranks.ctypes.data, n_candidates, limit, floor, best)[1:]
        if n_least == limit:
            return list_at_least(ranks, n_candidates, least, chosen)
    return keep_best(ranks, chosen, n, limit, work.values)


@kernel(forceinline=True)
def list_at_least(ranks: Any, n: int, floor: float, chosen: Any) -> int:
    """Write the indices of ranks of `floor` or more to `chosen`, eight at a time. Returns how many."""
    n_chosen, lowest = 0, lanes.splat(floor)
    source, target, places = ranks.ctypes.data, chosen.ctypes.data, _PLACES.ctypes.data
    for i in range(0, n, lanes.LANES):
        bits = np.uint64(lanes.at_least(lanes.load(source + 8 * i), lowest)) & lowest_bits(n - i)
        lanes.store_places(target + 4 * n_chosen, places + 8 * np.int64(bits), i)
        n_chosen += count_ones(bits)
    return n_chosen


@kernel(forceinline=True)
def keep_best(ranks: Any, chosen: Any, n: int, limit: int, values: Any) -> int:
    """Keep the `limit` candidates with the highest ranks, of equal ones the first. Returns how many.

    Args:
        chosen: int32, the first n are valid; n is more than `limit`.
        values: float64, scratch for n of them, padded to a whole group of lanes.
    """
    lowest, highest = ranks[chosen[0]], 0.0
    for i in range(n):
        values[i] = ranks[chosen[i]]
        lowest, highest = min(lowest, values[i]), max(highest, values[i])
    for i in range(n, (n + lanes.LANES - 1) & -lanes.LANES):
        values[i] = 0.0
    least, above, n_high = part(values.ctypes.data, n, limit, lowest, highest)
    n_equal, kept = limit - n_high, 0
    for i in range(n):
        chosen[kept] = chosen[i]
        equal = (values[i] == least) & (n_equal > 0)
        n_equal -= equal
        kept += (values[i] >= above) | equal
    return kept


@inner
def part(address: int, n: int, limit: int, lowest: float, highest: float) -> Any:
    """Find the rank that separates the `limit` highest of n from the rest.

    By bisection over its bits, which for positive numbers have the order of the numbers. Each step is
    a vectorised count.

    Args:
        address: of the ranks; zeros pad them to a whole group of lanes.
        lowest: more than `limit` ranks reach it; highest: the highest of all.
    Returns:
        Two ranks with no other between them: more than `limit` ranks reach the first, at most `limit` the
        second; and how many reach the second.
    """
    low, high, n_high = float_to_bits(lowest), float_to_bits(highest) + 1, 0
    while high - low > 1 and n_high < limit:
        middle = low + ((high - low) >> 1)
        wanted, count = lanes.splat(bits_to_float(middle)), 0
        for i in range(0, n, lanes.LANES):
            count += count_ones(np.uint64(lanes.at_least(lanes.load(address + 8 * i), wanted)))
        if count > limit:
            low = middle
        else:
            high, n_high = middle, count
    return bits_to_float(low), bits_to_float(high), n_high


def _float_to_bits(_context: Any, value: Any) -> Any:
    """Reinterpret the 64 bits of a float64 as an int64."""
    signature = types.int64(types.float64)

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.int64))

    return signature, generate


def _bits_to_float(_context: Any, bits: Any) -> Any:
    """Reinterpret the 64 bits of an int64 as a float64."""
    signature = types.float64(types.int64)

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float64))

    return signature, generate


float_to_bits: Any = intrinsic(_float_to_bits)
bits_to_float: Any = intrinsic(_bits_to_float)


@inner
def list_all(work: Any) -> None:
    """Choose all candidates."""
    for i in range(work.counts[N_CANDIDATES]):
        work.chosen[i] = i


@inner
def prune_split(floor: float, limit: int, work: Any) -> int:
    """Prune blank and symbol ends of the prefixes separately: `limit` ends in all; see Search.split."""
    blanks, symbols, factors, chosen = work.new_blanks, work.new_symbols, work.new_factors, work.chosen
    n_candidates = work.counts[N_CANDIDATES]
    ranks = np.zeros(2 * n_candidates + lanes.LANES)
    lowest, highest, kept = max(floor, _SMALLEST), 0.0, 0
    for i in range(n_candidates):
        ranks[2 * i], ranks[2 * i + 1] = blanks[i] * factors[i], symbols[i] * factors[i]
        kept += (ranks[2 * i] >= lowest) + (ranks[2 * i + 1] >= lowest)
        highest = max(highest, ranks[2 * i], ranks[2 * i + 1])
    if kept > limit:
        least, above, n_high = part(ranks.ctypes.data, 2 * n_candidates, limit, lowest, highest)
        lowest = above if n_high == limit else least
    kept = 0
    for i in range(n_candidates):
        if blanks[i] * factors[i] < lowest:
            blanks[i] = 0.0
        if symbols[i] * factors[i] < lowest:
            symbols[i] = 0.0
        if max(blanks[i], symbols[i]) * factors[i] > 0.0:
            chosen[kept] = i
            kept += 1
    return min(kept, limit)


@inner
def recombine(beams: Any, n_before: int, n: int, search: Any, work: Any, pieces: Any) -> int:
    """Keep the best of all candidates that are the same for later frames and words. Returns how many.

    work.chosen stays in ascending order.
    """
    mask = np.uint64(len(work.seen) - 1)
    keys = np.empty(n, np.uint64)
    seen, chosen, ranks = work.seen, work.chosen, work.ranks
    if search.pieces:
        for i in range(n):
            keys[i] = hash_future(beams, n_before, chosen[i], True, work, search.delimiter, pieces)
    else:
        for i in range(n):
            keys[i] = hash_future(beams, n_before, chosen[i], False, work, search.delimiter, pieces)
    touched, best = np.empty(n, np.uint64), np.ones(n, np.uint8)
    n_touched, kept = 0, 0
    for i in range(n):
        slot = (keys[i] >> _HALF) & mask
        while seen[slot] >= 0 and keys[seen[slot]] != keys[i]:
            slot = (slot + np.uint64(1)) & mask
        other = seen[slot]
        if other < 0:
            seen[slot], touched[n_touched] = i, slot
            n_touched += 1
        elif ranks[chosen[i]] > ranks[chosen[other]]:
            seen[slot], best[other] = i, 0
        else:
            best[i] = 0
    for i in range(n_touched):
        seen[touched[i]] = -1
    for i in range(n):
        chosen[kept] = chosen[i]
        kept += best[i] != 0
    return kept


@inner(forceinline=True)
def hash_future(
    beams: Any, n_before: int, index: int, spelled: bool, work: Any, delimiter: int, pieces: Any
) -> Any:
    """Hash of all that the rest of the search depends on: context, unfinished word, hotwords, last token."""
    candidate = work.candidates[index]
    parent = beams[work.slots[index] if index < n_before else candidate.slot]
    word, last, history, hotword = parent.word, parent.last, parent.history, parent.hotword
    if index >= n_before:
        last, hotword = candidate.token, candidate.hotword
        if spelled:
            _, word = spell_on(parent, last, delimiter, pieces)
        else:
            word = EMPTY if last == delimiter else hash_token(word, last)
        if candidate.context >= 0:
            history = work.known[candidate.context].history
    key = mix_hash(mix_hash(history, word), np.uint64(last + 2))
    return mix_hash(key, np.uint64(hotword + 2))

"""Groups of recordings: order, bounds, and whose error it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import AudioError, CancelledError, EngineError
from engine.jobs.groups import run_groups


def failure(item: int) -> EngineError:
    return AudioError(f"item {item}", "a good one", "mend it")


def run(items: Sequence[int | EngineError], bad: set[int], max_s: float, max_items: int) -> tuple[list, list]:
    """Results, and the sizes of the groups that were worked on."""
    sizes = []

    def work(group: Sequence[int]) -> list[str]:
        sizes.append(len(group))
        for item in group:
            if item in bad:
                raise failure(item)
        return [str(item) for item in group]

    return list(run_groups(items, work, float, max_s=max_s, max_items=max_items)), sizes


@given(st.lists(st.integers(1, 50), max_size=40), st.sets(st.integers(1, 50)), st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_every_item_has_its_own_result_in_its_own_place(
    lengths: list[int], bad: set[int], max_items: int
) -> None:
    items: list[int | EngineError] = [failure(n) if n % 7 == 0 else n for n in lengths]
    results, sizes = run(items, bad, 100.0, max_items)
    assert len(results) == len(items)
    assert max(sizes, default=0) <= max_items
    for item, result in zip(items, results, strict=True):
        if isinstance(item, EngineError):
            assert result is item  # found earlier, passed on
        elif item in bad:
            assert isinstance(result, AudioError)
            assert f"item {item}" in str(result)
        else:
            assert result == str(item)


def test_a_group_ends_with_the_item_that_reaches_the_length() -> None:
    assert run([30, 30, 30, 30, 200, 1], set(), 100.0, 64)[1] == [4, 1, 1]
    assert run([], set(), 100.0, 64) == ([], [])


def test_items_are_taken_a_group_at_a_time() -> None:
    taken = []

    def source() -> Iterator[int]:
        for item in range(1, 10):
            taken.append(item)
            yield item

    results = run_groups(source(), lambda group: group, float, max_s=1e9, max_items=3)
    assert next(results) == 1
    assert taken == [1, 2, 3]


def test_a_cancelled_call_is_not_tried_again() -> None:
    calls = []

    def work(group: Sequence[int]) -> list[int]:
        calls.append(len(group))
        raise CancelledError("cancelled")

    with pytest.raises(CancelledError):
        list(run_groups([1, 2, 3], work, float, max_s=1e9))
    assert calls == [3]

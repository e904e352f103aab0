"""Plans of encoder calls for a GPU."""

from __future__ import annotations

from itertools import groupby

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.acoustic.batches import BUCKET_STEPS, bucket_width, plan_batches

MAX = 480_000
lengths = st.lists(st.integers(400, MAX), max_size=60)


@given(lengths, st.booleans())
@settings(max_examples=100, deadline=None)
def test_every_utterance_is_in_one_call_that_holds_it(sizes: list[int], masked: bool) -> None:
    plan = plan_batches(sizes, MAX, masked=masked, max_cells=4 * MAX)
    assert sorted(i for batch in plan for i in batch.indices) == list(range(len(sizes)))
    for batch in plan:
        assert len(batch.indices) <= batch.n_rows
        assert batch.n_rows * batch.width <= max(4 * MAX, batch.width)
        assert all(sizes[i] <= batch.width for i in batch.indices)
        if not masked:  # no padding, no filling
            assert {sizes[i] for i in batch.indices} == {batch.width}
            assert len(batch.indices) == batch.n_rows


@given(lengths)
@settings(max_examples=100, deadline=None)
def test_calls_of_one_shape_come_in_a_row_and_shapes_are_few(sizes: list[int]) -> None:
    plan = plan_batches(sizes, MAX, masked=True, max_cells=4 * MAX)
    shapes = [shape for shape, _ in groupby((batch.n_rows, batch.width) for batch in plan)]
    assert len(shapes) == len(set(shapes)) <= len(BUCKET_STEPS)


def test_buckets_and_what_is_beyond_them() -> None:
    assert bucket_width(1, 160) == 10
    assert bucket_width(10, 160) == 10
    assert bucket_width(11, 160) == 20
    assert bucket_width(160, 160) == 160
    assert bucket_width(161, 160) == 161


def test_the_rest_of_many_fills_up_to_the_shape_before_it() -> None:
    plan = plan_batches([100] * 5, 100, masked=True, max_cells=200)
    assert [(len(b.indices), b.n_rows) for b in plan] == [(2, 2), (2, 2), (1, 2)]
    assert plan_batches([100], 100, masked=True, max_cells=200)[0].n_rows == 1
    assert plan_batches([], 100, masked=True, max_cells=200) == []

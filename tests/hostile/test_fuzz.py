"""The short forms of tests.fuzz.bundles and tests.fuzz.manifests; the long ones are commands of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fuzz.lines import LineCounter
from tests.fuzz.record import HangError, Record, broken_off

RESULTS = Path(__file__).parents[1] / "fuzz" / "results"


def test_mutated_bundles_are_used_or_refused() -> None:
    from tests.fuzz.bundles import Worker, fuzz, read_seeds

    with Worker(read_seeds()) as worker:
        record = fuzz(60, 3, worker)
    assert record.done == 60
    assert record.total()["used"] > 6
    assert record.total()["BundleSchemaError"] > 6


@pytest.mark.timeout(1800)  # what a case may take is counted in time of the processor
def test_mutated_manifests_and_texts_are_read_or_refused(tmp_path: Path) -> None:
    for name in ("pyarrow", "zstandard", "yaml", "starlette"):
        pytest.importorskip(name)
    from tests.fuzz.manifests import fuzz

    record = fuzz(300, 3, tmp_path)
    assert record.done == 300
    assert len(record.outcomes) > 15
    assert record.total()["read"] > 30
    assert record.total()["ManifestError"] > 30


def test_a_case_is_a_function_of_seed_and_number() -> None:
    from tests.fuzz.bundles import make_case, read_seeds

    seeds = read_seeds()
    assert [make_case(seeds, 5, n) for n in range(20)] == [make_case(seeds, 5, n) for n in range(20)]


def test_a_record_is_continued(tmp_path: Path) -> None:
    record = Record(7)
    record.count("a", "read")
    record.note(0.5, 0.25, 3.0)
    record.write(tmp_path / "r.json", "x")
    again = Record.read(tmp_path / "r.json", 7)
    assert (again.done, again.total(), again.slowest_s, again.growth_mb) == (1, record.total(), 0.5, 3.0)
    assert Record.read(tmp_path / "r.json", 8).done == 0


def test_lines_of_functions_are_counted() -> None:
    counter = LineCounter(["tests.fuzz.sample"])
    from tests.fuzz import sample

    with counter.recording():
        assert sample.choose(True) == 1
    assert counter.shares()["all"] == [2, 3]
    assert len(counter.missing()["tests.fuzz.sample"]) == 1


def test_a_case_that_hangs_is_broken_off() -> None:
    with pytest.raises(HangError), broken_off(0.05):
        while True:
            pass


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_committed_results_hold_to_what_is_promised(path: Path) -> None:
    found = json.loads(path.read_text())
    assert sum(found["total"].values()) == found["done"] >= 1000
    assert found["slowest_cpu_s"] <= 2.0
    assert found["growth_mb"] <= 64.0
    same_kind = RESULTS.glob(
        f"{path.stem.split('_')[0]}*.json"
    )  # seeds of one fuzzer: what the longest reached
    assert max(json.loads(each.read_text())["share"] for each in same_kind) >= 0.8
    assert not [outcome for outcome in found["total"] if outcome.startswith("!")]

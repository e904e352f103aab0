"""The comparison of beam searches end to end: our decoders, peers that are not installed, and wrong texts."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.errors import WrongOutputError
from benchmarks.kernels.synthetic_emissions import make_emissions
from benchmarks.peers import decoding
from benchmarks.protocol.driver import Driver, LocalSystem

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "data" / "decoder"
LABELS = ["<pad>", "|", *"abcdefghijklmnopqrstuvwxyzäöüß"]
TEXTS = [
    f"der {noun} ist {kind}" for noun in ("hund", "vogel", "fluss", "mann") for kind in ("hier", "da", "gut")
]


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    emissions = [make_emissions(text, LABELS, rng) for text in TEXTS]
    path = tmp_path / "emissions.npz"
    np.savez(
        path, lp=np.concatenate(emissions), off=np.cumsum([0, *map(len, emissions)]),
        labels=json.dumps(LABELS), texts=json.dumps(TEXTS),
    )  # fmt: skip
    words = tmp_path / "words.txt"
    words.write_text(" ".join(sorted({word for text in TEXTS for word in text.split()})), encoding="utf-8")
    model = FIXTURES / "tiny.probing.bin"
    return ["--emissions", str(path), "--language-model", str(model), "--words", str(words)]


def test_decoders_take_turns_and_write_the_form_of_the_committed_results(
    arguments: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    shortest = ["--passes", "1", "--thread_rounds", "1", "--json", str(out)]
    assert (
        decoding.main([*arguments, *shortest, "--peer-python", sys.executable, "--peers", "pyctcdecode"]) == 0
    )
    result = json.loads(out.read_text(encoding="utf-8"))
    committed = json.loads((ROOT / "benchmarks/results/decoder_emodb_dev.json").read_text(encoding="utf-8"))
    assert set(committed) <= set(result)
    assert result["n_utterances"] == len(TEXTS)
    assert set(result["decoders"]) == {"engine", "engine-hotwords", "engine-no-lm"}
    for row in result["decoders"].values():
        assert set(row) == set(committed["decoders"]["engine"])
        assert row["cpu_ms_median"] > 0
        assert row["wer"] < 30
    assert result["decoders"]["engine"]["ratio_to_engine"] == 1
    assert set(result["threads"]) == set(committed["threads"])
    assert "pyctcdecode" in result["left_out"]["pyctcdecode"]
    assert "emissions:emissions.npz" in result["signature"] and "passes:1" in result["signature"]


def test_the_utterances_of_a_turn_keep_their_frames() -> None:
    emissions = [np.full((n, 3), float(n), np.float32) for n in range(1, 24)]
    items = decoding.turns_of(emissions)
    assert [len(item["offsets"]) - 1 for item in items] == [10, 10, 3]
    again = [item["log_probs"][a:b] for item in items for a, b in itertools.pairwise(item["offsets"])]
    assert all(np.array_equal(a, b) for a, b in zip(again, emissions, strict=True))


def test_a_decoder_of_something_else_is_not_timed(arguments: list[str]) -> None:
    emissions, labels, texts = decoding.load_emissions(Path(arguments[1]))
    assert (labels, texts) == (LABELS, TEXTS)
    parts = [TEXTS[:10], TEXTS[10:]]
    systems = {
        "engine": LocalSystem(lambda inputs: {"texts": parts[len(inputs["offsets"]) < 11]}),
        "other": LocalSystem(lambda inputs: {"texts": ["xyz"] * (len(inputs["offsets"]) - 1)}),
        "fewer": LocalSystem(lambda inputs: {"texts": TEXTS[:1]}),
    }
    with Driver(systems) as driver:
        timings = decoding.measure(driver, emissions, labels, 2)
    assert list(timings) == ["engine"]
    assert "differ from the greedy ones" in driver.lost["other"]
    assert "10 texts" in driver.lost["fewer"]
    figures = decoding.figures(timings, [10, 2], TEXTS)
    assert figures["engine"]["wer"] == 0


def test_the_distance_to_the_greedy_texts() -> None:
    assert decoding.check(["abc", "de"], ["abc", "de"]) == 0
    assert decoding.check(["", ""], ["", ""]) == 0  # nobody speaks
    assert 0 < decoding.check(["abd", "de"], ["abc", "de"]) < 0.5
    with pytest.raises(WrongOutputError, match="2 texts"):
        decoding.check(["abc", None], ["abc", "de"])


def test_no_pass_is_refused() -> None:
    with pytest.raises(SystemExit):
        decoding.parse(["--emissions", "e", "--language-model", "l", "--words", "w", "--passes", "0"])

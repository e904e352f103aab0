"""The comparison of translators end to end on a tiny model: equal work, real sentences, what is left out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.errors import WrongOutputError
from benchmarks.peers import translation

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    pytest.importorskip("transformers")
    pytest.importorskip("onnx")
    from tests.reference.tiny_marian import SENTENCES, checkpoint, exported

    tsv = tmp_path_factory.mktemp("data") / "dev.tsv"
    tsv.write_text("".join(f"{i}\t{text}\tA dog.\n" for i, text in enumerate(SENTENCES)), encoding="utf-8")
    return [str(checkpoint()), str(exported().folder), "--tsv", str(tsv)]


def test_ours_and_a_peer_do_equal_work_and_write_the_form_of_the_committed_results(
    arguments: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    code = translation.main(
        [
            *arguments, "--json", str(out),
            "--limit", "4", "--rounds", "1", "--forced", "5", "--quality", "6",
            "--systems", "engine,engine by onnxruntime,transformers,ctranslate2",
            "--peer_python", "ctranslate2=/no/such/python",
        ]
    )  # fmt: skip
    assert code == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    committed = json.loads((RESULTS / "translation_peers_all.json").read_text(encoding="utf-8"))
    assert set(committed) <= {*result, "machine"} and result["threads"] == 1
    forced, real = result["forced"], result["real"]
    assert {"tokens", "signatures", "absent", "batch1_beam1", "batch32_beam4"} <= set(forced)
    assert "cannot be started" in forced["absent"]["ctranslate2"]
    assert "kernels do not compute" in forced["absent"]["engine"]  # float32 graphs are onnxruntime's
    systems = {"engine by onnxruntime", "transformers"}
    assert set(forced["signatures"]) == systems
    assert "|precision:fp32|" in forced["signatures"]["transformers"]
    for part in (forced, real):
        for key in ("batch1_beam1", "batch1_beam4", "batch32_beam1", "batch32_beam4"):
            assert set(part[key]) == systems
            assert all(row["cpu_ms_median"] >= row["cpu_ms_best"] > 0 for row in part[key].values())
    assert real["sentences"] == 4
    # The same float32 weights: both systems find the same translations.
    assert len({row["bleu"] for row in real["batch1_beam1"].values()}) == 1
    assert result["quality"]["sentences"] == 6 and set(result["quality"]["beam4"]) == systems


def test_outputs_that_are_not_the_work_are_refused() -> None:
    translation.check_tokens([[1, 2, 3], [4, 5]], 2, 6, forced=0)
    translation.check_tokens([[1, 2, 3], [4, 5]], 2, 6, forced=3)  # an end token counted or not
    for tokens, message in (
        ([[1, 2, 3]], "2 lists"),
        (None, "2 lists"),
        ([[1, 2, 3], [4, 5, 6]], "ids below 6"),
        ([[1, 2, 3], [4]], "equal work"),
    ):
        with pytest.raises(WrongOutputError, match=message):
            translation.check_tokens(tokens, 2, 6, forced=3)


def test_a_system_with_half_the_bleu_is_not_the_same_model() -> None:
    found = translation.too_far_below({"a": {"bleu": 30.0}, "b": {"bleu": 14.0}, "c": {"bleu": 16.0}})
    assert list(found) == ["b"] and "BLEU 14.0 where the best has 30.0" in found["b"]
    assert translation.too_far_below({"a": {"bleu": 3.0}, "b": {"bleu": 0.1}}) == {}
    assert translation.too_far_below({}) == {}


@pytest.mark.parametrize("wrong", [["--systems", "engine,nobody"], ["--peer_python", "nobody=/x"]])
def test_unknown_systems_are_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        translation.parse(["c", "e", "--tsv", "t", *wrong])


def test_peers_run_with_the_interpreter_that_was_named() -> None:
    args = translation.parse(
        [
            "c",
            "e",
            "--tsv",
            "t",
            "--systems",
            "engine,optimum,ctranslate2",
            "--peer_python",
            "optimum=/x/python",
        ]
    )
    found = translation.roster(args)
    assert list(found) == ["optimum", "ctranslate2"]
    assert found["optimum"].python == "/x/python" and "--optimum" in found["optimum"].arguments
    assert found["ctranslate2"].python == sys.executable
    assert all(peer.script.is_file() for peer in found.values())

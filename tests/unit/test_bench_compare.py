"""Two models, peers, the cascade, sweeps and the page, with stand-ins for the models."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_fake import FakeTranslator, write_data

import engine
from benchmarks.cli import main
from benchmarks.errors import MeasurementError, PeerError
from benchmarks.measures.systems import PeerSystem
from benchmarks.reports.table import disagreements
from benchmarks.studies import sweep
from engine.errors import AudioDecodeError
from engine.types import DecodingOptions

PEER = """
import json, sys
mode, *rest = sys.argv[1:]
for line in sys.stdin:
    request = json.loads(line)
    ask, answer = request["ask"], {"id": request["id"]}
    if ask == "hello":
        answer |= {"protocol": 1, "name": "parrot", "kind": "speech", "version": "parrot 1",
                   "capabilities": ["transcribe"], "settings": {"args": " ".join([mode, *rest])}}
    elif ask == "load":
        answer |= {"load_time_s": 0.5}
    elif mode == "broken":
        sys.exit(3)
    elif mode == "noise":
        print("loading ...", flush=True)
    elif request.get("inputs", {}).get("path", "").endswith("clip02.wav"):
        answer |= {"error": {"type": "failed", "message": "no such codec"}}
    elif ask == "run":
        text = {"text_de": None if mode == "silent" else "das ist alles"}
        answer |= {"outputs": text, "wall_s": 0.25, "cpu_s": 0.2}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str | None, FakeTranslator]:
    _, answers = write_data(tmp_path, 6)
    worse = {name: (german.rsplit(" ", 1)[0], "What?") for name, (german, _) in answers.items()}
    loaded: dict[str | None, FakeTranslator] = {
        None: FakeTranslator(answers),
        "second": FakeTranslator(worse),
    }
    monkeypatch.setattr(engine, "load", lambda model=None, **options: loaded[model], raising=False)
    return loaded


def bench(folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    out = folder / "out.json"
    data = str(folder / "manifest.tsv")
    code = main(["--data", data, "--json", str(out), "--quiet", "--device", "cpu", *arguments])
    return code, json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}


def test_two_models_take_turns_and_are_set_side_by_side(
    tmp_path: Path, models: dict[str | None, FakeTranslator], capsys: pytest.CaptureFixture[str]
) -> None:
    order: list[str] = []
    for name, model in models.items():
        model.work = lambda duration_s, name=name: order.append(str(name))
    code, result = bench(tmp_path, "--compare", "second", "--warmup", "0")
    assert code == 0
    assert order[:4] == ["None", "second", "second", "None"]
    comparison = result["comparison"]
    assert comparison["wer"] == pytest.approx(6 / 39)
    assert comparison["wer_difference"]["value"] == pytest.approx(6 / 39)
    assert comparison["wer_difference"]["interval"][0] > 0
    assert comparison["bleu_difference"]["value"] < -50
    assert set(comparison["time_ratio"]) == {"cpu", "wall"}
    assert comparison["utterances"][0]["second"] == "das hat schon meine großmutter"
    assert "6 of 6 transcripts differ" in capsys.readouterr().out


def test_case_and_punctuation_are_no_disagreement() -> None:
    rows = [
        {"id": "a", "first": "ja gut", "second": "Ja, gut.", "first_errors": 0, "second_errors": 0},
        {"id": "b", "first": "ja gut", "second": "Ja, gern.", "first_errors": 0, "second_errors": 1},
    ]
    assert [row["id"] for row in disagreements({"utterances": rows})] == ["b"]


def test_a_peer_in_its_own_process(tmp_path: Path, models: dict[str | None, FakeTranslator]) -> None:
    script = tmp_path / "parrot.py"
    script.write_text(PEER)
    code, result = bench(
        tmp_path, "--against", str(script), "--peer_args", "fine --model x", "--threads", "2",
        "--task", "transcribe"
    )  # fmt: skip
    assert code == 1
    comparison = result["comparison"]
    assert comparison["signature"].startswith("name:parrot|args:fine --model x --threads 2|version:parrot 1|")
    assert comparison["n_shared"] == 5
    assert "clip02.wav" in comparison["failures"][0]["id"]
    assert "no such codec" in comparison["failures"][0]["error"]
    assert comparison["latency_ms"]["p50"] == 250.0
    assert comparison["rtfx"] == pytest.approx(18 / (5 * 0.25))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("broken", "exit code 3"), ("noise", "one JSON object per line"), ("silent", "gave no text_de")],
)
def test_a_peer_that_misbehaves_says_how(tmp_path: Path, mode: str, expected: str) -> None:
    script = tmp_path / "parrot.py"
    script.write_text(PEER)
    with pytest.raises(PeerError, match=expected):
        PeerSystem(str(script), python=sys.executable, arguments=[mode]).run(tmp_path / "a.wav", "transcribe")


def test_an_unknown_peer_names_those_that_are_there() -> None:
    with pytest.raises(PeerError, match="no peer 'nobody'"):
        PeerSystem("nobody")


def test_one_second_system_at_a_time(tmp_path: Path, models: dict[str | None, FakeTranslator]) -> None:
    assert bench(tmp_path, "--compare", "second", "--against", "x") == (2, {})


def sweep_rows(folder: Path, *arguments: str) -> dict[str, Any]:
    out = folder / "sweep.json"
    data = str(folder / "manifest.tsv")
    assert main(["sweep", "--data", data, "--quiet", "--json", str(out), *arguments]) == 0
    return dict(json.loads(out.read_text()))


def test_a_sweep_has_a_row_for_each_combination(
    tmp_path: Path,
    models: dict[str | None, FakeTranslator],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[list[float]] = []

    def transcribe(source: np.ndarray, sample_rate: int, *, options: DecodingOptions) -> None:
        calls.append([len(source) / sample_rate])

    def transcribe_batch(sources: list[np.ndarray], *, options: DecodingOptions) -> list[None]:
        calls.append([len(source) / 16_000 for source in sources])
        return [None for _ in sources]

    monkeypatch.setattr(models[None], "transcribe", transcribe)
    monkeypatch.setattr(models[None], "transcribe_batch", transcribe_batch, raising=False)
    monkeypatch.setattr(sweep, "warm_up", lambda *arguments: 0.5)
    arguments = ["--threads_list", "1,2", "--batch_size", "1,4", "--concurrency", "1,3", "--lengths", "2,4"]
    result = sweep_rows(tmp_path, *arguments, "--repeats", "2")
    keys = ("threads", "length_s", "batch_size", "concurrency", "n")
    assert [tuple(row[key] for key in keys) for row in result["rows"]] == [
        (threads, length_s, batch_size, callers, 20 / length_s)
        for threads in (1, 2)
        for length_s in (2.0, 4.0)
        for batch_size in (1, 4)
        for callers in (1, 3)
    ]
    callers = 2
    alone, batches = [[2.0]] * 10, [[2.0] * 4, [2.0] * 4, [2.0] * 2]
    assert sorted(calls[:26]) == sorted([*alone * callers, *batches * callers])
    half = len(calls) // 2  # every combination is measured once before any is measured again
    assert sorted(calls[:half]) == sorted(calls[half:])
    assert all(row["noise_floor"] >= 0 for row in result["rows"])
    assert (result["rows"][7]["first_result_s"], result["settings"]["repeats"]) == (0.5, 2)
    assert "task:transcribe|" in result["signatures"][0]
    assert result["command"].startswith("engine-bench sweep --data")
    header = capsys.readouterr().out.splitlines()[3].split()
    assert header[:4] == ["threads", "batch", "callers", "length"]


def test_a_recording_that_fails_in_a_batch_ends_the_sweep(
    tmp_path: Path, models: dict[str | None, FakeTranslator], monkeypatch: pytest.MonkeyPatch
) -> None:
    def transcribe_batch(sources: list[np.ndarray], *, options: DecodingOptions) -> list[Exception]:
        return [AudioDecodeError("not audio") for _ in sources]

    monkeypatch.setattr(models[None], "transcribe_batch", transcribe_batch, raising=False)
    data = ["--data", str(tmp_path / "manifest.tsv"), "--quiet"]
    assert main(["sweep", *data, "--warmup", "0", "--batch_size", "2"]) == 2


def test_audio_is_cut_to_one_length() -> None:
    waveforms = [np.ones(16_000, np.float32), np.zeros(24_000, np.float32)]
    assert [len(piece) for piece in sweep.cut(waveforms, 1.0)] == [16_000, 16_000]
    (long,) = sweep.cut(waveforms, 6.0)
    assert len(long) == 96_000
    with pytest.raises(MeasurementError):
        sweep.cut([np.zeros(0, np.float32)], 1.0)


class Page(HTMLParser):
    """Collects tags, and what would be fetched from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith("data:")]


def test_the_page_is_whole_escaped_and_needs_nothing_from_elsewhere(
    tmp_path: Path, models: dict[str | None, FakeTranslator]
) -> None:
    model = models[None]
    model.answers["clip00.wav"] = ("das <b>hat</b> schon", "x")
    bench(tmp_path)
    page = tmp_path / "out.html"
    arguments = [
        "--compare",
        "second",
        "--by",
        "emotion",
        "--report",
        str(page),
        "--history",
        str(tmp_path / "out.json"),
    ]
    assert bench(tmp_path, *arguments)[0] == 0
    text = page.read_text(encoding="utf-8")
    parsed = Page()
    parsed.feed(text)
    assert parsed.outside == []
    assert parsed.tags.count("img") == 6  # lengths, stages, latency, two breakdowns, history
    assert "script" not in parsed.tags
    assert "<b>hat" not in text
    assert "das &lt;b&gt;hat" in text
    assert re.search(r"WER 15\.4 %, \+\d+\.\d\d points", text)


def test_the_history_holds_what_was_measured_on_the_same_data(
    tmp_path: Path, models: dict[str | None, FakeTranslator]
) -> None:
    _, result = bench(tmp_path)
    older = {**result, "environment": {**result["environment"], "time": "2020-01-01T00:00:00+00:00"}}
    del older["gpu_memory_note"]  # results of earlier versions stay readable
    other = {**older, "data": {**older["data"], "digest": "0"}}
    paths = []
    for name, content in (("older", older), ("other", other), ("now", result)):
        paths.append(str(tmp_path / f"{name}.json"))
        Path(paths[-1]).write_text(json.dumps(content))
    page = tmp_path / "page.html"
    assert main(["report", *paths, "--output", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "1 earlier results have other data or another task" in text
    assert "<figcaption>History</figcaption>" in text
    assert "unknown from one pass; --repeats 2 or more measures it" in text
    assert main(["report", paths[1], paths[2], "--output", str(page)]) == 0
    assert "<figcaption>History</figcaption>" not in page.read_text(encoding="utf-8")


def test_a_page_from_result_files(tmp_path: Path, models: dict[str | None, FakeTranslator]) -> None:
    bench(tmp_path)
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path / "out.json"), "--output", str(page)]) == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert main(["report", str(tmp_path / "none.json"), "--output", str(page)]) == 2

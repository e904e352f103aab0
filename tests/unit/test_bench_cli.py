"""engine-bench from the command line to its JSON, with a stand-in for the model."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from bench_fake import FakeTranslator, write_data, write_wav

import engine
from benchmarks import commands, run
from benchmarks.cli import main
from benchmarks.measures import stages
from engine._distribution import install_command

KEYS = {
    "signature", "n_utterances", "audio_s", "wer", "cer", "bleu", "chrf", "rtfx", "stages_s", "latency_ms",
    "load_time_s", "peak_rss_mb",
}  # fmt: skip


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTranslator:
    _, answers = write_data(tmp_path, 6)
    translator = FakeTranslator(answers)
    monkeypatch.setattr(engine, "load", lambda model=None, **options: translator, raising=False)
    return translator


def bench(folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    out = folder / "out.json"
    data = str(folder / "manifest.tsv")
    code = main(["--data", data, "--json", str(out), "--quiet", "--device", "cpu", *arguments])
    return code, json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}


def test_the_json_has_every_key_and_the_right_figures(tmp_path: Path, fake: FakeTranslator) -> None:
    fake.answers["clip00.wav"] = ("das hat schon meine mutter gesagt", "My mother said that.")
    code, result = bench(tmp_path, "--repeats", "2", "--by", "emotion")
    assert code == 0
    assert set(result) >= KEYS
    assert result["task"] == "translate"
    assert (result["n_utterances"], result["audio_s"]) == (6, 21.0)
    assert result["word_errors"] == {"substitutions": 1, "deletions": 0, "insertions": 0, "reference": 39}
    assert result["wer"] == pytest.approx(1 / 39)
    assert 50 < result["bleu"] < 100
    stages = {"audio", "features", "encoder", "decode", "second_pass", "punctuate", "translate"}
    assert set(result["stages_s"]) == stages
    assert result["stages_s"]["encoder"] == pytest.approx(0.6)
    assert set(result["latency_ms"]) == {"p50", "p95", "p99"}
    assert [group["value"] for group in result["by"]["emotion"]] == ["anger", "joy"]
    assert [group["n"] for group in result["by"]["length"]] == [1, 3, 2]
    assert result["worst"] == ["clip00.wav"]
    assert result["noise_floor"]["wall"] >= 0
    assert "norm:" in result["signature"]
    assert "warmup:2|repeats:2" in result["signature"]


def test_transcribe_leaves_the_english_side_empty(tmp_path: Path, fake: FakeTranslator) -> None:
    code, result = bench(tmp_path, "--task", "transcribe")
    assert code == 0
    assert (result["bleu"], result["chrf"], result["stages_s"]["translate"]) == (None, None, 0.0)


def test_the_table_shows_what_the_json_holds(
    tmp_path: Path, fake: FakeTranslator, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(tmp_path, "--by", "emotion")
    text = capsys.readouterr().out
    for word in (
        "WER",
        "CER",
        "BLEU",
        "chrF",
        "RTFx",
        "p50 / p95 / p99",
        "encoder",
        "by emotion",
        "peak memory",
    ):
        assert word in text


def test_warm_up_runs_and_is_not_counted(tmp_path: Path, fake: FakeTranslator) -> None:
    _, result = bench(tmp_path, "--warmup", "3", "--limit", "2")
    assert fake.calls == ["clip00.wav", "clip01.wav", "clip00.wav", "clip00.wav", "clip01.wav"]
    assert result["first_result_s"] >= 0
    _, result = bench(tmp_path, "--warmup", "0", "--limit", "1")
    assert result["first_result_s"] is None


def test_a_bad_file_is_one_error_and_the_rest_is_measured(
    tmp_path: Path, fake: FakeTranslator, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["clip03.wav"] = ("BROKEN", "")
    code, result = bench(tmp_path, "--repeats", "2")
    assert code == 1
    assert (result["n_utterances"], result["n_failed"]) == (5, 1)
    (failure,) = result["failures"]
    assert failure["id"] == "clip03.wav"
    assert "clip03.wav is not audio" in failure["error"]
    assert "failed: clip03.wav" in capsys.readouterr().out


def test_words_invented_where_nothing_is_said_are_counted(
    tmp_path: Path, fake: FakeTranslator, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("hum.wav", "silence.wav"):
        write_wav(tmp_path / name, 1.0)
    fake.answers |= {"hum.wav": ("sie essen", "They eat."), "silence.wav": ("", "")}
    with (tmp_path / "manifest.tsv").open("a") as file:
        file.write("hum.wav\t\t\tjoy\nsilence.wav\t...\t\tnoise\n")
    code, result = bench(tmp_path, "--by", "emotion")
    assert code == 0
    assert result["empty_references"] == {"clips": 2, "clips_with_words": 1, "words": 2}
    assert result["word_errors"]["insertions"] == 2 and result["word_errors"]["reference"] == 39
    assert result["wer"] == pytest.approx(2 / 39)
    assert {group["value"]: group["wer"] for group in result["by"]["emotion"]}["noise"] is None
    assert result["worst"] == ["hum.wav"] and result["bleu"] == pytest.approx(100)
    printed = capsys.readouterr().out
    assert re.search(r"invented words +2 +in 1 of 2 clips without speech", printed)


def test_data_in_which_nobody_speaks_has_no_wer(
    tmp_path: Path, fake: FakeTranslator, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.tsv").write_text("path\ttext_de\nclip00.wav\t\nclip01.wav\t\n")
    code, result = bench(tmp_path)
    assert code == 0 and result["wer"] is None and result["wer_interval"] is None
    assert result["empty_references"]["clips"] == 2 and result["empty_references"]["words"] == 12
    assert "in 2 of 2 clips" in capsys.readouterr().out


def test_only_the_stated_part_of_a_file_is_measured(
    tmp_path: Path, fake: FakeTranslator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lengths: list[float] = []

    def transcribe(path: str, **_: Any) -> Any:
        lengths.append(soundfile.info(path).duration)
        fake.answers[Path(path).name] = ("ja", "")
        with monkeypatch.context() as patched:
            patched.setattr(fake, "load_audio", lambda _: np.zeros(int(lengths[-1] * 16_000), np.float32))
            return FakeTranslator.transcribe(fake, path)

    monkeypatch.setattr(fake, "transcribe", transcribe)
    row = {"audio_filepath": "clip05.wav", "text": "ja", "duration": 1.25}
    lines = [json.dumps({**row, "offset": offset}) for offset in (0, 2.5)]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    code, result = bench(tmp_path, "--data", str(tmp_path / "m.jsonl"), "--warmup", "0")
    assert code == 0 and lengths == [1.25, 1.25] and result["audio_s"] == 2.5
    assert [item["id"] for item in result["utterances"]] == ["clip05.wav", "clip05.wav@2.5+1.25"]
    assert "2 clips are parts of files" in result["notes"][0]


def test_nothing_measurable_exits_with_two_and_writes_nothing(
    tmp_path: Path, fake: FakeTranslator, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers = dict.fromkeys(fake.answers, ("BROKEN", ""))
    assert bench(tmp_path) == (2, {})
    assert "no utterance could be measured" in capsys.readouterr().err


def test_a_bad_manifest_lists_its_problems_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "load", lambda *a, **k: pytest.fail("loaded"), raising=False)
    (tmp_path / "manifest.tsv").write_text("path\ttext_de\nx.wav\tJa\ny.wav\t\n")
    code, _ = bench(tmp_path)
    error = capsys.readouterr().err
    assert code == 2
    for problem in ("2 problems", "manifest.tsv:2: no audio file", "x.wav", "manifest.tsv:3: no audio file"):
        assert problem in error


def test_all_that_is_wrong_comes_in_one_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "load", lambda *a, **k: pytest.fail("loaded"), raising=False)
    for name, rate in (("a.wav", 16_000), ("b.wav", 8_000)):
        write_wav(tmp_path / name, 1.0, rate)
    lines = ["path\ttext_de\temotion", "a.wav\tJa\tjoy", "b.wav\t\tjoy", "none.wav\tNein\tjoy"]
    lines += ["a.wav\tDoch\tjoy", "b.wav\tzu wenig"]
    (tmp_path / "manifest.tsv").write_text("\n".join(lines) + "\n")
    assert bench(tmp_path, "--by", "dialect")[0] == 2
    error = capsys.readouterr().err
    for problem in (
        "manifest.tsv: 5 problems",
        "manifest.tsv:6: 2 columns, the header has 3",
        "manifest.tsv:4: no audio file",
        "manifest.tsv:5: id 'a.wav' again (first in ",
        "no column 'dialect' to group by (it has emotion)",
        "mixed sample rates (1 at 8000 Hz, 2 at 16000 Hz)",
    ):
        assert problem in error


def test_a_wrong_header_is_told_with_the_names_that_are_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.tsv").write_text("path\twords\nnone.wav\tJa\n")
    assert bench(tmp_path)[0] == 2
    error = capsys.readouterr().err
    for problem in ("1 problem\n", "manifest.tsv:1: got columns path, words; want one of path,", "text_de"):
        assert problem in error


def test_grouping_by_a_column_that_is_not_there(
    tmp_path: Path, fake: FakeTranslator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(tmp_path, "--by", "dialect")[0] == 2
    assert "no column 'dialect' to group by (it has emotion)" in capsys.readouterr().err


def test_mixed_sample_rates_are_noted_or_with_strict_refused(tmp_path: Path, fake: FakeTranslator) -> None:
    data = (tmp_path / "clip01.wav").read_bytes()
    (tmp_path / "clip01.wav").write_bytes(data[:24] + (8000).to_bytes(4, "little") + data[28:])
    code, result = bench(tmp_path)
    assert code == 0
    assert result["notes"] == [
        "mixed sample rates (1 at 8000 Hz, 5 at 16000 Hz): resampling is part of the stage audio"
    ]
    (tmp_path / "out.json").unlink()
    assert bench(tmp_path, "--strict") == (2, {})


def test_an_interrupted_run_keeps_what_it_measured_and_resumes(
    tmp_path: Path, fake: FakeTranslator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = stages.measure_one

    def stop_at_the_fifth(system: Any, utterance: Any, *rest: Any) -> Any:
        if utterance.id == "clip04.wav":
            raise KeyboardInterrupt
        return whole(system, utterance, *rest)

    monkeypatch.setattr(stages, "measure_one", stop_at_the_fifth)
    assert bench(tmp_path, "--warmup", "0") == (130, {})
    assert "continues from there" in capsys.readouterr().err
    partial = tmp_path / "out.json.partial.jsonl"
    assert len(partial.read_text(encoding="utf-8").splitlines()) == 5
    with partial.open("a") as file:
        file.write('{"id": "clip04.wav", "rep')  # the power went out in the middle of a line
    monkeypatch.setattr(stages, "measure_one", whole)
    fake.calls.clear()
    code, result = bench(tmp_path, "--warmup", "0")
    assert (code, result["n_utterances"]) == (0, 6)
    assert fake.calls == ["clip04.wav", "clip05.wav"]
    assert not partial.exists()


def test_a_journal_of_other_settings_is_not_resumed(
    tmp_path: Path, fake: FakeTranslator, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out.json.partial.jsonl").write_text(
        '{"signature": "something else"}\n{"id": "clip00.wav"}\n'
    )
    _, result = bench(tmp_path, "--warmup", "0")
    assert len(fake.calls) == result["n_utterances"] == 6
    assert "of other settings, data or code: starting over" in caplog.text


def test_a_model_that_cannot_be_loaded_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from engine.errors import BundleNotFoundError

    def refuse(*args: Any, **options: Any) -> None:
        raise BundleNotFoundError("no bundle at 'x'", "a folder", "check the path")

    write_data(tmp_path, 1)
    monkeypatch.setattr(engine, "load", refuse, raising=False)
    assert bench(tmp_path)[0] == 2
    assert (
        capsys.readouterr().err.strip()
        == "engine-bench: no bundle at 'x'; expected a folder; fix: check the path"
    )


def test_a_result_that_cannot_be_written_is_an_error(tmp_path: Path, fake: FakeTranslator) -> None:
    (tmp_path / "file").write_text("")
    data = str(tmp_path / "manifest.tsv")
    assert main(["--data", data, "--quiet", "--json", str(tmp_path / "file" / "out.json")]) == 2
    assert fake.calls == []


def test_missing_extras_are_named_before_anything_runs(
    tmp_path: Path, fake: FakeTranslator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "jiwer" else find(name, *a)
    )
    assert bench(tmp_path) == (2, {})
    assert install_command("bench") in capsys.readouterr().err
    assert fake.calls == []


@pytest.mark.parametrize("arguments", [["--limit", "0"], ["--threads", "-1"], ["--task", "sing"], ["gate"]])
def test_bad_options_exit_with_two(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_the_default_data_is_the_synthetic_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.machinery import ModuleSpec

    (tmp_path / "engine" / "bundled" / "examples").mkdir(parents=True)
    inside = tmp_path / "engine" / "bundled" / "examples" / "manifest.tsv"
    inside.write_text("")
    spec = ModuleSpec("engine", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path / "engine")]
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: spec)
    assert run.default_data() == inside
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "manifest.tsv").write_text("")
    assert run.default_data() == tmp_path / "examples" / "manifest.tsv"


def test_the_workflow_example_uses_options_that_exist() -> None:
    text = (Path(__file__).resolve().parents[2] / "examples" / "github-actions-gate.yml").read_text()
    parser = argparse.ArgumentParser()
    commands.configure_gate(parser)
    known = {name for action in parser._actions for name in action.option_strings}
    assert set(re.findall(r"--[a-z-]+(?= )", text)) - {"--output"} <= known


def test_a_bug_in_one_file_does_not_cost_the_others(tmp_path: Path, fake: FakeTranslator) -> None:
    def break_on_long_audio(duration_s: float) -> None:
        if duration_s > 5:
            raise ValueError("operands could not be broadcast")

    fake.work = break_on_long_audio
    code, result = bench(tmp_path)
    assert (code, result["n_utterances"]) == (1, 5)
    assert result["failures"][0]["error"] == "ValueError: operands could not be broadcast"


def test_beams_that_were_asked_for_are_in_the_signature(tmp_path: Path, fake: FakeTranslator) -> None:
    fake.signature = "model:x|beam:64|mt:int8,beam4|threads:1"
    assert bench(tmp_path)[1]["signature"].startswith("model:x|beam:64|mt:int8,beam4|threads:1|task:")
    assert bench(tmp_path, "--beam_size", "1")[1]["signature"].startswith("model:x|beam:1|mt:int8,beam1|")
    _, result = bench(tmp_path, "--beam_size", "8", "--translation_beam_size", "2")
    assert result["signature"].startswith("model:x|beam:8|mt:int8,beam2|")

"""`engine-train align` on bad manifests, audio, texts and options: one message, nothing written."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from tests.reference.tone_bundle import SAMPLE_RATE, spell, write_tone_bundle
from training.cli import EXIT_FAILED, main

GOOD = "Guten Tag zusammen."


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tone_bundle(tmp_path_factory.mktemp("tones") / "bundle")


@pytest.fixture
def folder(tmp_path):
    soundfile.write(tmp_path / "good.wav", spell(".guten tag zusammen."), SAMPLE_RATE)
    (tmp_path / "broken.flac").write_bytes(b"fLaC but no more")
    return tmp_path


def run(bundle, folder, lines, *options: str) -> int:
    manifest = folder / "m.tsv"
    manifest.write_text("path\ttext_de\n" + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    return align(bundle, folder, *options)


def align(bundle, folder, *options: str) -> int:
    arguments = ["align", "--data", str(folder / "m.tsv"), "--output_dir", str(folder / "out")]
    return main([*arguments, "--model", str(bundle), "--min_s", "0.5", *options])


BAD_LINES = {
    "missing audio file": f"none.wav\t{GOOD}",
    "unreadable audio": f"broken.flac\t{GOOD}",
    "no words": "good.wav\t...",
    "another script": "good.wav\tПривет, как дела",
}


@pytest.mark.parametrize("problem", BAD_LINES)
def test_a_bad_line_is_named_with_want_and_fix(bundle, folder, caplog, problem):
    assert run(bundle, folder, [f"good.wav\t{GOOD}", BAD_LINES[problem]]) == EXIT_FAILED
    assert all(part in caplog.text for part in (problem, "expected", "fix:", "--skip_bad"))
    assert not (folder / "out").exists()


def test_all_bad_lines_are_named_at_once(bundle, folder, caplog):
    assert run(bundle, folder, [f"good.wav\t{GOOD}", *BAD_LINES.values()]) == EXIT_FAILED
    assert all(problem in caplog.text for problem in BAD_LINES) and "4 of 5" in caplog.text


def test_bad_lines_can_be_left_out(bundle, folder, caplog):
    assert run(bundle, folder, [f"good.wav\t{GOOD}", *BAD_LINES.values()], "--skip_bad") == 0
    assert len((folder / "out" / "train.tsv").read_text(encoding="utf-8").splitlines()) == 2
    assert caplog.text.count("left out") == 4


def test_nothing_but_bad_lines_is_an_error_all_the_same(bundle, folder):
    assert run(bundle, folder, BAD_LINES.values(), "--skip_bad") == EXIT_FAILED


@pytest.mark.parametrize(
    "content",
    [b"", b"path\ttext_de\n", b"nothing\there\na\tb\n", b"path\ttext_de\na.wav\tsch\xf6n\n", None],
    ids=["empty", "no lines", "no columns", "latin-1", "missing"],
)
def test_an_unreadable_manifest_is_an_error(bundle, folder, caplog, content):
    if content is not None:
        (folder / "m.tsv").write_bytes(content)
    assert align(bundle, folder) == EXIT_FAILED
    assert "m.tsv" in caplog.text and "Traceback" not in caplog.text
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    "options",
    [["--min_s", "20"], ["--max_s", "nan"], ["--min_score", "1"], ["--min_agreement", "7"],
     ["--threads", "-1"], ["--keep_out", "nobody"], ["--keep_out", "*"], ["--model", "nowhere"]],
    ids=lambda options: " ".join(options),
)  # fmt: skip
def test_options_that_make_no_sense_are_named(bundle, folder, caplog, options):
    assert run(bundle, folder, [f"good.wav\t{GOOD}"], *options) == EXIT_FAILED
    assert options[0].lstrip("-") in caplog.text or options[1] in caplog.text
    assert not (folder / "out" / "train.tsv").exists()


def test_audio_that_ends_too_early_stops_or_is_left_out(bundle, folder, caplog):
    soundfile.write(folder / "cut.flac", spell(".guten tag zusammen." * 4), SAMPLE_RATE)
    whole = (folder / "cut.flac").read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 3])
    lines = [f"good.wav\t{GOOD}", f"cut.flac\t{GOOD}"]
    assert run(bundle, folder, lines) == EXIT_FAILED and "cut.flac" in caplog.text
    assert run(bundle, folder, lines, "--skip_bad") == 0
    assert len((folder / "out" / "train.tsv").read_text(encoding="utf-8").splitlines()) == 2


SOUNDS = {
    "silence": np.zeros(3 * SAMPLE_RATE), "a click": np.eye(1, SAMPLE_RATE, 500)[0],
    "an instant": np.zeros(500), "noise": np.random.default_rng(0).normal(0, 0.2, 3 * SAMPLE_RATE),
    "full scale": np.sign(np.sin(np.arange(2 * SAMPLE_RATE) * 0.1)),
    "another text": spell(".wir gehen heute nicht nach hause."),
}  # fmt: skip


@pytest.mark.parametrize("sound", SOUNDS)
def test_sound_without_the_text_gives_no_utterance_and_no_error(bundle, folder, sound):
    soundfile.write(folder / "odd.wav", SOUNDS[sound], SAMPLE_RATE)
    assert run(bundle, folder, [f"odd.wav\t{GOOD}", f"good.wav\t{GOOD}"]) == 0
    rows = (folder / "out" / "train.tsv").read_text(encoding="utf-8").splitlines()
    assert [row.split("\t")[0] for row in rows[1:]] == ["audio/good/0000.flac"]


def test_odd_names_make_distinct_folders_inside_the_output(bundle, folder):
    sound = spell(".guten tag zusammen.")
    names = ["../up.wav", "a/talk.wav", "b/talk.wav", "mit leer zeichen.wav", "...wav.wav"]
    base = folder / "inner"
    for name in names:
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(base / name, sound, SAMPLE_RATE)
    (base / "good.wav").write_bytes((folder / "good.wav").read_bytes())
    assert run(bundle, base, [f"{name}\t{GOOD}" for name in names]) == 0
    found = sorted(path.relative_to(base / "out").as_posix() for path in (base / "out").rglob("*.flac"))
    assert len(found) == len(names) and all(path.startswith("audio/") for path in found)
    assert not list(base.rglob("*.part"))

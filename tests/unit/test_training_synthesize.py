"""Synthetic speech: the plan, the voices, the journal; and augmentation."""

import argparse
import hashlib
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("zstandard")

from training.cli import main
from training.common.augment import AugmentConfig, Augmenter, code_mu_law, made_noise, mix_at_snr
from training.synthesis import synthesize
from training.synthesis.voices import build_voices, pico_markup, shift_formants

SENTENCES = [f"Das ist Satz Nummer {number} von vielen." for number in range(60)]


def options(**changes):
    values = {"seed": 0, "limit": 50, "held_out": 10, "espeak_share": 0.3, "exclude": []}
    return argparse.Namespace(**{**values, **changes})


def test_the_same_seed_gives_the_same_plan():
    plan = synthesize.plan_jobs(SENTENCES, options(), {"pico", "espeak"})
    assert plan == synthesize.plan_jobs(SENTENCES, options(), {"pico", "espeak"})
    assert plan != synthesize.plan_jobs(SENTENCES, options(seed=1), {"pico", "espeak"})


def test_held_out_voices_and_texts_are_never_trained_on():
    plan = synthesize.plan_jobs(SENTENCES, options(), {"pico", "espeak"})
    dev = [job for job in plan if job.split == "dev"]
    train = [job for job in plan if job.split == "train"]
    assert len(dev) == 10 and all(job.voice.held_out for job in dev)
    assert not any(job.voice.held_out for job in train)
    assert not {job.text for job in dev} & {job.text for job in train}


def test_excluded_sentences_stay_out(tmp_path):
    (tmp_path / "m.tsv").write_text(f"path\ttext_de\nx\t{SENTENCES[3].upper()}\n", encoding="utf-8")
    plan = synthesize.plan_jobs(SENTENCES, options(limit=60, exclude=[tmp_path / "m.tsv"]), {"espeak"})
    assert SENTENCES[3] not in {job.text for job in plan} and len(plan) == 59


def test_voices_differ_and_some_are_held_out():
    voices = build_voices()
    assert len({voice.name for voice in voices}) == len(voices) > 50
    assert 5 < sum(voice.held_out for voice in voices) < 15
    assert all(80 < voice.f0_hz < 400 for voice in voices if voice.engine == "pico")


def test_markup_escapes_text_and_keeps_every_word():
    voice = build_voices()[0]
    for seed in range(20):
        markup = pico_markup("Max & Moritz <so>", voice, random.Random(seed))
        assert "&amp;" in markup and "&lt;so&gt;" in markup


def test_a_longer_vocal_tract_lowers_all_frequencies():
    tone = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000).astype(np.float32)
    lowered = shift_formants(tone, 0.8)
    assert lowered.size == pytest.approx(20_000, abs=2)
    spectrum = np.abs(np.fft.rfft(lowered))
    assert np.argmax(spectrum) * 16_000 / lowered.size == pytest.approx(800, abs=3)


def test_a_journal_cut_off_by_a_kill_loses_one_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    whole = '{"index": 0, "text_de": "ein\u2028Satz"}\n{"index": 1, "text_de": "schö'.encode()
    path.write_bytes(whole[:-1])  # in the middle of a character
    assert synthesize.read_journal(path) == {0: {"index": 0, "text_de": "ein\u2028Satz"}}


def test_no_engine_is_an_error(tmp_path):
    (tmp_path / "t.txt").write_text("Hallo Welt.\n", encoding="utf-8")
    arguments = [
        "--text",
        str(tmp_path / "t.txt"),
        "--output_dir",
        str(tmp_path / "out"),
        "--espeak_share",
        "0",
    ]
    assert main(["synthesize", *arguments]) == 2


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_espeak_corpus_is_checksummed_and_resumed(tmp_path):
    (tmp_path / "t.txt").write_text("\n".join(SENTENCES[:6]), encoding="utf-8")
    arguments = ["synthesize", "--text", str(tmp_path / "t.txt"), "--output_dir", str(tmp_path / "out")]
    arguments += ["--espeak_share", "1", "--held_out", "2", "--workers", "1", "--limit"]
    assert main([*arguments, "4"]) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.flac")}
    assert main([*arguments, "6"]) == 0
    rows = [line.split("\t") for line in (tmp_path / "out" / "manifest.tsv").read_text().splitlines()]
    assert rows[0] == list(synthesize.COLUMNS) and len(rows) == 7
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    for row in rows[1:]:
        audio = Path(tmp_path / "out" / row[0]).read_bytes()
        assert hashlib.sha256(audio).hexdigest() == row[5]


def test_augmentation_is_repeatable_finite_and_bounded():
    waveform = made_noise(8000, 1.0, np.random.default_rng(0)) * 0.1
    always = AugmentConfig(speed=1.0, room=1.0, colour=1.0, noise=1.0, band=1.0, coding=1.0, clip=1.0)
    augmenter = Augmenter(always)
    for seed in range(10):
        first, second = (augmenter(waveform, np.random.default_rng(seed)) for _ in range(2))
        assert np.array_equal(first, second)
        assert np.isfinite(first).all() and np.abs(first).max() <= 1.0
        assert 0.85 < first.size / waveform.size < 1.15


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_noise_is_mixed_at_the_ratio_asked_for(snr_db):
    rng = np.random.default_rng(0)
    speech, noise = made_noise(16_000, 1.0, rng), made_noise(16_000, 0.0, rng)
    added = mix_at_snr(speech, noise, snr_db) - speech
    assert 10 * np.log10(np.mean(speech**2) / np.mean(added**2)) == pytest.approx(snr_db, abs=0.05)


def test_augmentation_takes_silence_and_single_samples():
    augmenter = Augmenter(AugmentConfig(room=1.0, colour=1.0, noise=1.0, coding=1.0))
    for size in (1, 50, 400):
        assert np.isfinite(augmenter(np.zeros(size, np.float32), np.random.default_rng(0))).all()
    assert not code_mu_law(np.zeros(10, np.float32)).any()

"""`engine-train evaluate` in batches gives what it gives clip by clip."""

import dataclasses
import json
import math

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from benchmarks.measures.metrics import add_errors, count_character_errors, count_word_errors  # noqa: E402
from tests.reference.tiny_training import TINY_WAV2VEC2  # noqa: E402
from training.asr import conformer, log_mel_ctc  # noqa: E402
from training.asr.emitters import load_emitter  # noqa: E402
from training.asr.evaluate import compute_emissions, read_samples  # noqa: E402
from training.cli import main  # noqa: E402
from training.common.metrics import compute_spoken_error_rates  # noqa: E402

pytestmark = pytest.mark.usefixtures("light_training")

# Samples. 8,000 and 7,999 are both 25 frames after rounding up; 8,001 are 26.
LENGTHS = (8_000, 9_600, 7_999, 8_000, 5_000, 12_345, 9_600, 8_001)


@pytest.fixture
def manifest(tmp_path):
    lines, rng = ["path\ttext_de"], np.random.default_rng(0)
    for number, length in enumerate(LENGTHS):
        soundfile.write(tmp_path / f"{number}.wav", rng.normal(0, 0.1, length), 16_000, "FLOAT")
        lines.append(f"{number}.wav\tja")
    (tmp_path / "clips.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "clips.tsv"


def write_log_mel(folder):
    config = log_mel_ctc.LogMelCtcConfig(
        hidden_size=16, n_layers=1, n_heads=2, intermediate_size=16, head_size=8
    )
    log_mel_ctc.save_checkpoint(log_mel_ctc.LogMelCtc(config), folder)


def write_conformer(folder):
    config = conformer.ConformerConfig(hidden_size=16, n_layers=2, n_heads=2, intermediate_size=16)
    conformer.save_checkpoint(conformer.ConformerCtc(config), folder)


def write_wav2vec2(folder, norm):
    changes = {"feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer", "vocab_size": 32}
    config = transformers.Wav2Vec2Config(**{**TINY_WAV2VEC2, **changes})
    transformers.Wav2Vec2ForCTC(config).save_pretrained(folder)


WRITERS = {
    "log-mel": (write_log_mel, 5),  # calls: 5,000; 8,000 and 7,999; 8,001; 9,600; 12,345
    "conformer": (write_conformer, 1),
    "layer norm": (lambda folder: write_wav2vec2(folder, "layer"), 1),
    "group norm": (lambda folder: write_wav2vec2(folder, "group"), 6),  # one call for each length
}


@pytest.mark.parametrize("kind", sorted(WRITERS))
@pytest.mark.parametrize("snr_db", [None, 5.0])
def test_emissions_do_not_depend_on_the_batch(tmp_path, manifest, kind, snr_db):
    write, n_calls = WRITERS[kind]
    torch.manual_seed(0)
    write(tmp_path / "model")
    emitter = load_emitter(tmp_path / "model", torch.device("cpu"))
    calls = []

    def emit(waveforms):
        calls.append(len(waveforms))
        return emitter.emit(waveforms)

    counted = dataclasses.replace(emitter, emit=emit)
    samples = read_samples(manifest, None)
    together = compute_emissions(counted, samples, snr_db, 60.0)
    assert len(calls) == n_calls and sum(calls) == len(LENGTHS)
    calls.clear()
    alone = compute_emissions(counted, samples, snr_db, 0.01)
    assert calls == [1] * len(LENGTHS)
    for one, other in zip(together, alone, strict=True):
        assert one.shape == other.shape and len(one) > 0
        np.testing.assert_allclose(one, other, atol=2e-5)
        np.testing.assert_allclose(np.logaddexp.reduce(one, axis=1), 0.0, atol=1e-5)
    assert any(len(row) != len(together[0]) for row in together)


def test_figures_of_batches_equal_those_of_single_clips(tmp_path, manifest):
    write_log_mel(tmp_path / "model")
    found = []
    for batch_s in ("60", "0.01"):
        target = tmp_path / f"{batch_s}.json"
        arguments = ["evaluate", str(tmp_path / "model"), "--data", str(manifest), "--batch_s", batch_s]
        assert main([*arguments, "--device", "cpu", "--json", str(target)]) == 0
        found.append(json.loads(target.read_text(encoding="utf-8"))["models"])
    assert found[0] == found[1]


def test_all_missing_audio_is_named_before_a_model_runs(tmp_path, manifest, caplog):
    write_log_mel(tmp_path / "model")
    for number in (1, 4):
        (tmp_path / f"{number}.wav").unlink()
    assert main(["evaluate", str(tmp_path / "model"), "--data", str(manifest)]) == 2
    assert "1.wav: missing audio file" in caplog.text and "4.wav: missing audio file" in caplog.text


def test_an_unknown_device_is_one_line(tmp_path, manifest, caplog):
    write_log_mel(tmp_path / "model")
    arguments = ["evaluate", str(tmp_path / "model"), "--data", str(manifest), "--device", "gpu7"]
    assert main(arguments) == 2
    assert "gpu7" in caplog.text


def test_rates_count_numbers_as_engine_bench_does() -> None:
    pairs = [
        ("Um 14:30 Uhr kam er.", "um halb drei kam er"), ("Das war 1943.", "das war neunzehnhundert"),
        ("zwölf Eier", "zwölf eier"), ("...", "nichts"), ("3,5 %", ""),
    ]  # fmt: skip
    rates = compute_spoken_error_rates(*map(list, zip(*pairs, strict=True)))
    spoken = [pair for pair in pairs if pair[0] != "..."]
    assert rates.wer == pytest.approx(100 * add_errors([count_word_errors(*pair) for pair in spoken]).rate)
    assert rates.cer == pytest.approx(
        100 * add_errors([count_character_errors(*pair) for pair in spoken]).rate
    )
    assert 0 < rates.wer < 100
    assert math.isnan(compute_spoken_error_rates(["..."], ["ja"]).wer)

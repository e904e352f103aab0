"""A Conformer CTC checkpoint, exported and run by the engine, against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

import engine  # noqa: E402
from engine.acoustic.model import compute_log_softmax  # noqa: E402
from engine.bundle.folder import open_bundle  # noqa: E402
from export.acoustic.conformer import build_conformer, export_conformer  # noqa: E402
from export.acoustic.mel_checkpoint import run_torch  # noqa: E402
from export.acoustic.source import ExportOptions  # noqa: E402
from export.cli import main  # noqa: E402
from export.rewrites.half_arithmetic import use_half  # noqa: E402
from export.verification.audio_cases import speech_like  # noqa: E402
from export.verification.verify import onnx_run  # noqa: E402
from training.asr.conformer import (  # noqa: E402
    ConformerConfig,
    ConformerCtc,
    load_checkpoint,
    output_lengths,
    save_checkpoint,
)

pytestmark = pytest.mark.usefixtures("short_cases")

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "n_layers": 2,
    "n_heads": 2,
    "intermediate_size": 64,
    "conv_width": 7,
    "max_distance": 5,
}


def make_model(**changes: Any) -> ConformerCtc:
    """Random weights, biases by distance and batch statistics included."""
    torch.manual_seed(0)
    model = ConformerCtc(ConformerConfig(**{**SIZES, **changes})).eval()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if "distance_bias" in name or "running_mean" in name or "mel_mean" in name:
            torch.nn.init.normal_(tensor)
        elif "norm.weight" in name or "running_var" in name or "mel_scale" in name:
            torch.nn.init.uniform_(tensor, 0.3, 2.0)
    return model


@pytest.mark.parametrize("n_frames", [1, 2, 3, 4, 5, 37, 200])
def test_graph_equals_torch(n_frames: int) -> None:
    model = make_model()
    run = onnx_run(build_conformer(model)[0])
    features = np.random.default_rng(n_frames).standard_normal((2, 80, n_frames)).astype(np.float32)
    expected = run_torch(model, features)
    assert expected.shape[1] == output_lengths(torch.tensor(n_frames))
    np.testing.assert_allclose(run(features), expected, rtol=0, atol=1e-4)


def test_half_graph_stays_close() -> None:
    model = make_model()
    features = np.random.default_rng(1).standard_normal((1, 80, 100)).astype(np.float32)
    expected = run_torch(model, features)
    found = onnx_run(use_half(build_conformer(model)[0]))(features)
    assert np.linalg.norm(found - expected) < 5e-3 * np.linalg.norm(expected)


def test_batch_norm_and_the_halves_leave_no_nodes() -> None:
    kinds = [node.op_type for node in build_conformer(make_model())[0].graph.node]
    assert "BatchNormalization" not in kinds
    assert kinds.count("Conv") == 2  # one a layer
    assert kinds.count("MultiHeadAttention") == 2
    assert kinds.count("Gather") == 2


def test_padded_training_batch_gives_what_each_utterance_gives_alone() -> None:
    model = make_model()
    features = torch.randn(3, 80, 61)
    lengths = torch.tensor([61, 8, 33])
    with torch.inference_mode():
        together = model(features, lengths)
        for row, length in enumerate(lengths):
            alone = model(features[row : row + 1, :, :length])[0]
            torch.testing.assert_close(together[row, : len(alone)], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("convention", ["kaldi", "whisper"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_exported_bundle_runs_like_a_waveform_one(tmp_path: Path, precision: Any, convention: str) -> None:
    model = make_model(convention=convention, n_fft=512 if convention == "kaldi" else 400)
    save_checkpoint(model, tmp_path / "checkpoint")
    options = ExportOptions(precision=precision, min_agreement=0.5, allow_slower=True, sensitivity=False)
    export_conformer(tmp_path / "checkpoint", tmp_path / "bundle", options)
    config = open_bundle(tmp_path / "bundle").manifest.acoustic
    assert config is not None
    assert (config.samples_per_frame, config.features.convention) == (640, convention)
    loaded = engine.load(str(tmp_path / "bundle"), device="cpu", threads=1)
    waveform = speech_like(40_000, 16_000)
    features = loaded.compute_features(waveform)
    found = loaded.compute_log_probs(features)
    expected = compute_log_softmax(run_torch(model, features[None])[0])
    assert np.linalg.norm(found - expected) < (1e-4 if precision == "fp32" else 0.1) * np.linalg.norm(
        expected
    )
    assert loaded.transcribe(waveform).duration_s == pytest.approx(2.5)


def test_command_line_exports_and_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(make_model(), tmp_path / "checkpoint")
    arguments = [str(tmp_path / "checkpoint"), str(tmp_path / "bundle")]
    assert main(["conformer", *arguments, "--precision", "fp32"]) == 0
    assert main(["verify", *arguments]) == 0
    assert "| 6 s | red 10 dB |" in capsys.readouterr().out


def test_checkpoint_survives_saving_and_foreign_ones_are_refused(tmp_path: Path) -> None:
    model = make_model()
    save_checkpoint(model, tmp_path)
    features = torch.randn(1, 80, 40)
    with torch.inference_mode():
        torch.testing.assert_close(load_checkpoint(tmp_path)(features), model(features))
    (tmp_path / "config.json").write_text('{"architecture": "LogMelCTC"}')
    with pytest.raises(ValueError, match="expected architecture ConformerCTC"):
        load_checkpoint(tmp_path)

"""A log-mel CTC checkpoint, exported and run by the engine, against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from engine.acoustic.model import AcousticModel, compute_log_softmax  # noqa: E402
from engine.bundle.folder import open_bundle  # noqa: E402
from engine.errors import AudioLimitError  # noqa: E402
from engine.types import RuntimeOptions  # noqa: E402
from export.acoustic.log_mel import build_log_mel, export_log_mel  # noqa: E402
from export.acoustic.mel_checkpoint import run_torch  # noqa: E402
from export.acoustic.source import ExportOptions  # noqa: E402
from export.verification.audio_cases import features_of, speech_like  # noqa: E402
from export.verification.verify import onnx_run  # noqa: E402
from training.asr.log_mel_ctc import LogMelCtc, LogMelCtcConfig, save_checkpoint  # noqa: E402

pytestmark = pytest.mark.usefixtures("short_cases")

CPU = RuntimeOptions(device="cpu")
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "n_layers": 2,
    "n_heads": 2,
    "intermediate_size": 128,
    "head_size": 32,
    "tail_silence_s": 0.5,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "two lstm layers": {"head_layers": 2},
    "transformer head": {"head": "transformer", "head_size": 64, "head_layers": 2},
    "sinks": {"n_sinks": 3},
    "mixed and normalised states": {"mix_layers": 2, "normalize_states": True},
}


def make_model(**changes: Any) -> LogMelCtc:
    torch.manual_seed(0)
    model = LogMelCtc(LogMelCtcConfig(**{**SIZES, **changes})).eval()
    for name, parameter in model.named_parameters():
        if "sink" in name or name == "mix":
            torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("variant", VARIANTS)
def test_graph_equals_torch_at_even_and_odd_lengths(variant: str) -> None:
    model = make_model(**VARIANTS[variant])
    run = onnx_run(build_log_mel(model)[0])
    for n_frames in (2, 3, 100, 333):
        features = np.random.default_rng(n_frames).standard_normal((2, 80, n_frames)).astype(np.float32)
        np.testing.assert_allclose(run(features), run_torch(model, features), rtol=0, atol=1e-4)


def test_exported_bundle_cuts_the_tail_silence_off_again(tmp_path: Path) -> None:
    model = make_model()
    save_checkpoint(model, tmp_path / "checkpoint")
    options = ExportOptions(precision="int8", min_agreement=0.5, allow_slower=True)
    report = export_log_mel(tmp_path / "checkpoint", tmp_path / "bundle", options)
    assert report.error < 0.1
    bundle = open_bundle(tmp_path / "bundle")
    config = bundle.manifest.acoustic
    assert config is not None
    assert config.max_window_s == pytest.approx(29.5)  # 1500 positions of 20 ms, less the tail
    acoustic = AcousticModel(bundle, CPU)
    waveform = speech_like(32_000, 16_000)
    log_probs = acoustic.compute_log_probs(acoustic.compute_features(waveform))
    expected = compute_log_softmax(run_torch(model, features_of(waveform, config)[None])[0])
    assert log_probs.shape == (100, 32)  # two seconds, without the 25 frames of silence
    assert np.linalg.norm(log_probs - expected[:100]) < 0.1 * np.linalg.norm(expected[:100])
    with pytest.raises(AudioLimitError, match=r"at most 29\.5 s"):
        acoustic.compute_features(np.zeros(30 * 16_000, np.float32))


def test_longest_window_uses_every_position(tmp_path: Path) -> None:
    save_checkpoint(make_model(), tmp_path / "checkpoint")
    export_log_mel(tmp_path / "checkpoint", tmp_path / "bundle", ExportOptions(precision="fp32"))
    acoustic = AcousticModel(open_bundle(tmp_path / "bundle"), CPU)
    features = acoustic.compute_features(np.zeros(int(29.5 * 16_000), np.float32))
    assert acoustic.compute_log_probs(features).shape == (1475, 32)

"""Checkpoints in half precision: exported and trained as if they had been saved in float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnx")

from export.acoustic.pretrained import load_pretrained  # noqa: E402
from export.acoustic.wav2vec2 import build_wav2vec2  # noqa: E402
from export.verification.verify import onnx_run  # noqa: E402
from tests.parity.test_export_wav2vec2 import make_model, save_checkpoint  # noqa: E402
from training.asr.model import _load_checkpoint  # noqa: E402


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = save_checkpoint(tmp_path / "checkpoint")
    make_model("wav2vec2-base").to(request.param).save_pretrained(folder)
    return folder


def test_the_export_computes_in_float32(checkpoint: Path) -> None:
    source = load_pretrained(str(checkpoint))
    values = np.random.default_rng(0).standard_normal((1, 3333)).astype(np.float32)
    model = make_model("wav2vec2-base")
    model.load_state_dict({name: one.float() for name, one in _saved(checkpoint).items()})
    np.testing.assert_allclose(
        onnx_run(build_wav2vec2(model)[0])(values), source.reference(values), rtol=0, atol=2e-4
    )


def test_training_starts_in_float32(checkpoint: Path) -> None:
    model = _load_checkpoint(str(checkpoint), {"": 0, "a": 1})
    assert {one.dtype for one in model.parameters()} == {torch.float32}


def _saved(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))

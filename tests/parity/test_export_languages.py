"""Checkpoints with an adapter, a head and a vocabulary for each language, as MMS has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnx")

from safetensors.torch import save_file  # noqa: E402

from engine.errors import UnsupportedBlockError  # noqa: E402
from engine.native.encoder import NativeEncoder  # noqa: E402
from export.acoustic.pretrained import load_pretrained  # noqa: E402
from export.cli import main  # noqa: E402
from export.errors import ExportError  # noqa: E402
from export.layout.describe import describe_model  # noqa: E402
from export.quantization.quantize import choose  # noqa: E402
from export.verification.verify import onnx_run  # noqa: E402
from tests.parity.test_export_wav2vec2 import LAYER_NORM, SIZES, TOKENS  # noqa: E402

GERMAN = [*TOKENS, "ä", "ö", "ü", "ß"]
VOCABULARIES = {"eng": TOKENS, "deu": GERMAN}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder, and the model with its German adapter and head."""
    folder = tmp_path_factory.mktemp("mms") / "tiny-mms"
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(**SIZES, **LAYER_NORM, adapter_attn_dim=8)
    model = transformers.Wav2Vec2ForCTC(config).eval()
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    index = {name: {t: i for i, t in enumerate(tokens)} for name, tokens in VOCABULARIES.items()}
    (folder / "vocab.json").write_text(json.dumps(index))
    model.lm_head = torch.nn.Linear(32, len(GERMAN))
    for name, parameter in model.named_parameters():
        if "adapter" in name:
            torch.nn.init.normal_(parameter, 1.0 if "norm.weight" in name else 0.0, 0.5)
    adapter = {name: tensor.detach().clone() for name, tensor in model._get_adapters().items()}
    save_file(adapter, folder / "adapter.deu.safetensors", metadata={"format": "pt"})
    return folder, model


def test_language_brings_its_adapter_head_and_vocabulary(original: tuple[Path, Any]) -> None:
    folder, model = original
    source = load_pretrained(str(folder), "deu")
    assert source.vocabulary == tuple(GERMAN)
    assert source.name == "tiny-mms-deu"
    values = np.random.default_rng(0).standard_normal((1, 9_000)).astype(np.float32)
    with torch.inference_mode():
        want = model(torch.from_numpy(values)).logits.numpy()
    assert want.shape[2] == len(GERMAN)
    np.testing.assert_allclose(source.reference(values), want, atol=1e-5)
    graph, blocks = source.build(lambda block: "float32", None)
    np.testing.assert_allclose(onnx_run(graph)(values), want, atol=2e-4)
    assert "layer_0/adapter_in" in blocks
    with pytest.raises(UnsupportedBlockError, match="adapters, for which there are no kernels"):
        NativeEncoder(describe_model(graph, "acoustic"))
    int8 = onnx_run(source.build(choose(list(blocks)), None)[0])(values)
    assert np.linalg.norm(int8 - want) < 0.08 * np.linalg.norm(want)


@pytest.mark.parametrize(
    ("language", "message"),
    [
        (None, r"a vocabulary for each of several languages \(deu, eng\).*fix: pass --language"),
        ("eng", r"no adapter adapter\.eng\.safetensors.*fix: download the adapter"),
        ("swh", r"no vocabulary of language 'swh' \(deu, eng\); no adapter adapter\.swh\.safetensors"),
    ],
)
def test_language_that_is_not_there_is_refused_before_any_work(
    original: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    language: str | None, message: str,
) -> None:  # fmt: skip
    with pytest.raises(ExportError, match=message):
        load_pretrained(str(original[0]), language)
    command = ["ctc", str(original[0]), str(tmp_path / "out")]
    assert main([*command, "--language", language] if language else command) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_pickled_or_foreign_adapter_is_refused(original: tuple[Path, Any], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in original[0].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "adapter.eng.bin").write_bytes(b"pickle")
    with pytest.raises(ExportError, match=r"the adapter only as adapter\.eng\.bin: a pickle can run code"):
        load_pretrained(str(folder), "eng")
    head = {"lm_head.weight": torch.zeros(len(TOKENS), 32), "lm_head.bias": torch.zeros(len(TOKENS))}
    save_file(head, folder / "adapter.eng.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"adapter\.eng\.safetensors cannot be loaded .*missing keys"):
        load_pretrained(str(folder), "eng")
    (folder / "adapter.eng.safetensors").write_bytes(b"weights")
    with pytest.raises(ExportError, match=r"the adapter adapter\.eng\.safetensors cannot be read"):
        load_pretrained(str(folder), "eng")


def test_language_for_a_checkpoint_without_adapters_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"architectures": ["Wav2Vec2ForCTC"], "pad_token_id": 0})
    )
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "a": 1}))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(ExportError, match=r"language 'deu' for a checkpoint without adapters"):
        load_pretrained(str(tmp_path), "deu")

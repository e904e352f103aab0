"""A checkpoint of two passes, exported by the real exporter: what it proves, says and refuses."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("transformers")

from engine import load  # noqa: E402
from engine.bundle.folder import open_bundle, write_bundle  # noqa: E402
from engine.kernels.vector.levels import has_vector_kernels  # noqa: E402
from engine.runtime.integer_products import PRODUCTS, check_products  # noqa: E402
from export.acoustic.source import ExportOptions  # noqa: E402
from export.cli import main  # noqa: E402
from export.errors import ExportError  # noqa: E402
from export.graph.two_pass import build_two_pass  # noqa: E402
from export.pair_safe.command import make_pair_safe  # noqa: E402
from export.quantization.exactness import EVERYWHERE  # noqa: E402
from export.two_pass import check as two_pass_check  # noqa: E402
from export.two_pass import export as two_pass  # noqa: E402
from export.two_pass.export import TwoPassOptions, export_two_pass, verify_second_pass  # noqa: E402
from tests.reference.tiny_two_pass import (  # noqa: E402
    VOCAB_SIZE,
    bundle_folder,
    checkpoint,
    make_decoder,
    make_model,
)
from training.whisper.checkpoint import save_two_pass  # noqa: E402

GRAPHS = ("asr_memory", "asr_decoder")


pytestmark = pytest.mark.usefixtures("short_cases")


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests compare far more than this; here it would only take time."""
    monkeypatch.setattr(two_pass_check, "MAX_TOKENS", 14)
    monkeypatch.setattr(two_pass_check, "LENGTHS_S", (3.0,))


@pytest.fixture
def ready_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that was exported before, for tests of the decoder alone."""

    def copy_encoder(source: Any, folder: Path, options: ExportOptions) -> None:
        shutil.copytree(bundle_folder(options.precision), folder)

    monkeypatch.setattr(two_pass, "export_acoustic", copy_encoder)


def acoustic(precision: str = "int8") -> ExportOptions:
    return ExportOptions(
        precision=precision, min_agreement=0.3, allow_slower=True, sensitivity=False, batches=False
    )  # fmt: skip


@functools.cache
def exported(precision: str) -> tuple[Path, Any]:
    folder = Path(tempfile.mkdtemp()) / "bundle"
    return folder, export_two_pass(checkpoint(), folder, TwoPassOptions(acoustic(precision), (), 0.5))


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_a_bundle_carries_what_was_found(precision: str) -> None:
    folder, report = exported(precision)
    bundle = open_bundle(folder)
    config = bundle.manifest.second_pass
    assert config is not None and config.precision == precision and config.vocab_size == VOCAB_SIZE
    kernels = ["kernels"] if precision == "int8" and has_vector_kernels() else []
    assert list(config.figures["backends"]) == ["onnxruntime", *kernels]
    for one in config.figures["backends"].values():
        assert one["n_utterances"] == 6 and one["agreement"] >= 0.5
        assert one["error"] < (0.3 if precision == "int8" else 1e-4)
    card = (folder / "README.md").read_text()
    assert "## The second pass against its checkpoint" in card and "| onnxruntime | 6 |" in card
    assert config.exporter["torch"] and report.backends["onnxruntime"].greedy >= 0
    if precision == "int8":
        assert config.figures["exact_on"] == EVERYWHERE and EVERYWHERE in card
    else:
        assert report.backends["onnxruntime"].agreement == report.backends["onnxruntime"].greedy == 1
        assert report.from_features == 1


def test_every_integer_product_is_exact_everywhere() -> None:
    bundle = open_bundle(exported("int8")[0])
    for role, least in (("asr_memory", 2), ("asr_decoder", 13)):
        found = check_products(bundle.file(role))
        graph = onnx.load(bundle.file(role), load_external_data=False).graph
        assert found.problems == ()
        assert found.n_products == sum(node.op_type in PRODUCTS for node in graph.node) >= least


@pytest.mark.usefixtures("ready_encoder")
def test_blocks_may_stay_in_float(tmp_path: Path) -> None:
    options = TwoPassOptions(acoustic(), ("head", "layer_1/feed"), 0.5)
    report = export_two_pass(checkpoint(), tmp_path / "bundle", options)
    assert report.float_blocks == ["layer_1/feed_in", "layer_1/feed_out", "head"]
    graph = onnx.load(tmp_path / "bundle/asr_decoder.onnx", load_external_data=False).graph
    floats = {node.name.rpartition("/")[0] for node in graph.node if node.op_type == "MatMul"}
    assert floats == set(report.float_blocks)
    better, worse = report.backends["onnxruntime"], exported("int8")[1].backends["onnxruntime"]
    assert better.error < worse.error
    assert "Float32 arithmetic in: layer_1/feed_in" in (tmp_path / "bundle/README.md").read_text()


@pytest.mark.usefixtures("ready_encoder")
def test_blocks_are_given_up_until_enough_tokens_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(two_pass_check.MIN_AGREEMENT, "int8", 1.01)
    monkeypatch.setattr(two_pass, "MIN_AGREEMENT", two_pass_check.MIN_AGREEMENT)
    with pytest.raises(ExportError, match="the same best token at"):
        export_two_pass(checkpoint(), tmp_path / "bundle", TwoPassOptions(acoustic()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("ready_encoder")
def test_a_decoder_that_is_too_far_away_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        two_pass, "build_two_pass",
        lambda decoder, *rest: build_two_pass(make_decoder(seed=1), *rest),
    )  # fmt: skip
    with pytest.raises(ExportError, match="the fp32 decoder by onnxruntime differs too much") as caught:
        export_two_pass(checkpoint(), tmp_path / "bundle", TwoPassOptions(acoustic("fp32")))
    assert caught.value.want and caught.value.fix
    assert list(tmp_path.iterdir()) == []


def edited(tmp_path: Path, name: str, change: Any) -> Path:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint(), folder)
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(change(content)))
    return folder


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("tokens.json", lambda c: {**c, "tokens": c["tokens"][:-1]}, "100 tokens for a decoder of 101"),
        ("decoder.json", lambda c: {**c, "prompt": [1, 2, 300]}, r"special tokens \[300\]"),
        ("decoder.json", lambda c: {**c, "n_heads": 3}, "3 heads of 42 over 128"),
        ("decoder.json", lambda c: {**c, "n_layers": 3}, "cannot be loaded"),
        ("decoder.json", lambda c: {"vocab_size": 3}, "cannot be loaded"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, name: str, change: Any, match: str) -> None:
    with pytest.raises(ExportError, match=match):
        export_two_pass(edited(tmp_path, name, change), tmp_path / "bundle", TwoPassOptions(acoustic()))
    assert not (tmp_path / "bundle").exists()


def test_a_decoder_over_other_channels_is_refused(tmp_path: Path) -> None:
    model = make_model()
    model.decoder = make_decoder(hidden_size=64, n_heads=2)
    save_two_pass(model, tmp_path / "checkpoint")
    with pytest.raises(ExportError, match="a decoder over 64 channels, an encoder of 128"):
        export_two_pass(tmp_path / "checkpoint", tmp_path / "bundle", TwoPassOptions(acoustic()))


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = make_model()
    model.decoder.layers[1].fc1.weight.data[3, 3] = np.nan
    save_two_pass(model, tmp_path / "checkpoint")
    with pytest.raises(ExportError, match="not finite"):
        export_two_pass(tmp_path / "checkpoint", tmp_path / "bundle", TwoPassOptions(acoustic()))


def test_half_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="--precision fp16"):
        export_two_pass(checkpoint(), tmp_path / "bundle", TwoPassOptions(acoustic("fp16")))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["two-pass", str(checkpoint()), str(tmp_path / "bundle"), "--precision", "fp32", "--no-batches"]
    assert main([*given, "--min-token-agreement", "0.99"]) == 0
    assert f"wrote {tmp_path / 'bundle'}" in capsys.readouterr().out
    assert open_bundle(tmp_path / "bundle").manifest.second_pass is not None
    assert main(["two-pass", str(tmp_path / "nothing"), str(tmp_path / "other")]) == 1


def test_an_encoder_of_128_mel_bands_as_in_large_v3(tmp_path: Path) -> None:
    save_two_pass(make_model(n_mels=128), tmp_path / "checkpoint")
    folder = tmp_path / "bundle"
    report = export_two_pass(tmp_path / "checkpoint", folder, TwoPassOptions(acoustic("fp32"), (), 0.99))
    assert report.from_features == 1
    assert open_bundle(folder).manifest.acoustic.features.n_mels == 128
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
    model = load(folder)
    log_probs = model.compute_log_probs(model.compute_features(noise))
    assert log_probs.shape[0] == 50 and np.isfinite(log_probs).all()


def test_a_bundle_is_verified_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = exported("fp32")[0]
    assert main(["verify", str(checkpoint()), str(folder), "--no-batches"]) == 0
    assert "| onnxruntime | 6 |" in capsys.readouterr().out
    save_two_pass(make_model(seed=1), tmp_path / "other")
    with pytest.raises(ExportError, match="differs too much"):
        verify_second_pass(tmp_path / "other", folder)
    with pytest.raises(ExportError, match="has other tokens"):
        verify_second_pass(checkpoint(), assembled_without_tokens(folder, tmp_path))


def assembled_without_tokens(folder: Path, tmp_path: Path) -> Path:
    """The bundle with its tokens turned around."""
    bundle = open_bundle(folder)
    files = {entry.role: bundle.file(entry.role) for entry in bundle.manifest.files}
    tokens = json.loads(files["asr_tokens"].read_text())
    files["asr_tokens"] = tmp_path / "tokens.json"
    files["asr_tokens"].write_text(json.dumps(tokens[::-1]))
    return write_bundle(
        tmp_path / "turned", name="turned", licence="CC0", files=files, card="",
        acoustic=bundle.manifest.acoustic, second_pass=bundle.manifest.second_pass,
    )  # fmt: skip


def test_pair_safe_keeps_the_second_pass(tmp_path: Path) -> None:
    """Its weights are pair-safe already; so are the encoder's, and nothing is written."""
    assert make_pair_safe(exported("int8")[0], tmp_path / "bundle") is None

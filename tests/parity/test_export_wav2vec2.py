"""Hugging Face checkpoints of every supported kind, exported and run by the engine, against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnx")

import engine  # noqa: E402
from engine.acoustic.model import AcousticModel, compute_log_softmax  # noqa: E402
from engine.bundle.folder import open_bundle  # noqa: E402
from engine.errors import DeviceError  # noqa: E402
from engine.types import RuntimeOptions  # noqa: E402
from export.acoustic.pretrained import export_pretrained  # noqa: E402
from export.acoustic.source import ExportOptions  # noqa: E402
from export.acoustic.wav2vec2 import build_wav2vec2, run_torch  # noqa: E402
from export.verification.audio_cases import speech_like  # noqa: E402

pytestmark = pytest.mark.usefixtures("short_cases")

CPU = RuntimeOptions(device="cpu")
TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefghijklmnopqrstuvwxyz"]
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": len(TOKENS),
    "pad_token_id": 0,
}
LAYER_NORM = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2-base": ("Wav2Vec2", {}),
    "wav2vec2-large-lv60, XLSR-53, XLS-R": ("Wav2Vec2", LAYER_NORM),
    "hubert-base": ("Hubert", {}),
    "hubert-large": ("Hubert", LAYER_NORM),
    "hubert without projection norm": ("Hubert", {"feat_proj_layer_norm": False}),
    "odd sizes": ("Wav2Vec2", {"num_conv_pos_embeddings": 7, "conv_dim": [8, 16, 24, 24, 16, 16, 8]}),
}


def make_model(kind: str) -> Any:
    """A random model whose norms are not the identity, as trained ones are not."""
    family, changes = KINDS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **changes})
    model = getattr(transformers, f"{family}ForCTC")(config).eval()
    for name, parameter in model.named_parameters():
        if "norm.weight" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.3)
        elif "norm.bias" in name:
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    return model


def save_checkpoint(folder: Path, kind: str = "wav2vec2-base") -> Path:
    make_model(kind).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(TOKENS)}))
    masked = KINDS[kind][1].get("feat_extract_norm") == "layer"
    extractor = {"do_normalize": True, "sampling_rate": 16_000, "feature_size": 1}
    extractor["return_attention_mask"] = masked
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    (folder / "README.md").write_text("---\nlanguage: de\nlicense: mit\n---\n# A model\n")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_graph_equals_transformers_at_every_length_and_batch(kind: str) -> None:
    from export.verification.verify import onnx_run

    model = make_model(kind)
    run = onnx_run(build_wav2vec2(model)[0])
    for n_samples in (400, 401, 719, 720, 3333, 16_000):
        for batch in (1, 2):
            values = np.random.default_rng(n_samples).standard_normal((batch, n_samples)).astype(np.float32)
            np.testing.assert_allclose(run(values), run_torch(model, values), rtol=0, atol=2e-4)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_batchable_graph_gives_every_utterance_what_it_gets_alone(kind: str, half: bool) -> None:
    from engine.runtime.onnx_session import open_session
    from export.rewrites.half_arithmetic import use_half

    model = make_model(kind)
    graph = build_wav2vec2(model, batchable=True)[0]
    session = open_session((use_half(graph) if half else graph).SerializeToString(), CPU, threads=1)
    lengths = (16_000, 401, 7_777, 12_000)
    mask = (np.arange(16_000) < np.array(lengths)[:, None]).astype(np.int64)
    noise = np.random.default_rng(0).standard_normal(mask.shape).astype(np.float32)
    padded = np.where(mask, noise, np.float32(0))
    logits = session.run({"input_values": padded, "attention_mask": mask})[0]
    for row, n_samples in enumerate(lengths):
        alone = run_torch(model, noise[row : row + 1, :n_samples])[0]
        np.testing.assert_allclose(logits[row, : len(alone)], alone, rtol=0, atol=3e-3 if half else 2e-5)


@pytest.mark.parametrize("kind", ["wav2vec2-base", "wav2vec2-large-lv60, XLSR-53, XLS-R"])
def test_fp16_bundle_loads_and_runs_on_the_cpu_too(tmp_path: Path, kind: str) -> None:
    checkpoint = save_checkpoint(tmp_path / "checkpoint", kind)
    report = export_pretrained(str(checkpoint), tmp_path / "bundle", ExportOptions(precision="fp16"))
    assert report.masked
    assert report.batch_agreement[7] > 0.9
    assert report.speedup is None or report.device == "cuda"
    config = open_bundle(tmp_path / "bundle").manifest.acoustic
    assert config is not None
    assert (config.precision, config.mask) == ("fp16", True)
    assert config.trained_with_mask == ("large" in kind)
    model = engine.load(str(tmp_path / "bundle"), device="cpu", compute_type="fp16", threads=1)
    features = model.compute_features(speech_like(20_000, 16_000))
    expected = compute_log_softmax(run_torch(make_model(kind), features[None])[0])
    np.testing.assert_allclose(model.compute_log_probs(features), expected, atol=5e-3)
    with pytest.raises(DeviceError, match=r"'auto' or 'fp16'.*export the model"):
        engine.load(str(tmp_path / "bundle"), device="cpu", compute_type="int8")


@pytest.mark.parametrize("kind", ["wav2vec2-base", "wav2vec2-large-lv60, XLSR-53, XLS-R"])
def test_int8_graph_stays_close(kind: str) -> None:
    from export.quantization.quantize import choose, measure_ranges
    from export.verification.verify import onnx_run

    model = make_model(kind)
    values = speech_like(16_000, 16_000)[None] * 10  # with pauses, which noise has not
    graph, blocks = build_wav2vec2(model)
    ranges = measure_ranges(graph, blocks, "input_values", [values[0]])
    int8, _ = build_wav2vec2(model, choose(list(blocks)), ranges)
    kinds = {node.op_type for node in int8.graph.node}
    # Convolutions only where a layer norm has made their rows even.
    assert ("MatMulIntegerToFloat" in kinds) == (model.config.feat_extract_norm == "layer")
    assert "DynamicQuantizeMatMul" in kinds
    assert "SkipLayerNormalization" not in kinds
    expected = run_torch(model, values)
    error = np.linalg.norm(onnx_run(int8)(values) - expected) / np.linalg.norm(expected)
    assert error < 0.08


def test_exported_bundle_runs_in_the_engine_as_the_checkpoint_does(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "checkpoint")
    report = export_pretrained(str(checkpoint), tmp_path / "bundle", ExportOptions(precision="fp32"))
    assert report.agreement >= 0.999
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.licence == "mit"
    config = bundle.manifest.acoustic
    assert config is not None
    assert (config.blank_id, config.word_delimiter, config.samples_per_frame) == (0, "|", 320)
    assert not config.mask
    assert not config.trained_with_mask  # a group-norm model never is
    assert "relative L2 error" in (tmp_path / "bundle" / "README.md").read_text()

    waveform = speech_like(24_000, 16_000)
    acoustic = AcousticModel(bundle, CPU)
    log_probs = acoustic.compute_log_probs(acoustic.compute_features(waveform))
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(checkpoint)
    values = extractor(waveform, sampling_rate=16_000, return_tensors="np")["input_values"]
    logits = run_torch(make_model("wav2vec2-base"), values)[0]
    np.testing.assert_allclose(log_probs, compute_log_softmax(logits), atol=2e-3)


@pytest.mark.filterwarnings("ignore")  # of torch's older exporter, which is the quick one
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("kind", ["wav2vec2-base", "wav2vec2-large-lv60, XLSR-53, XLS-R"])
def test_folder_as_optimum_writes_it_loads_as_it_is(tmp_path: Path, kind: str, mask: bool) -> None:
    folder = save_checkpoint(tmp_path / "optimum", kind)
    write_tokenizer(folder, moved=2 if mask else 0)
    model = make_model(kind)
    inputs = ["input_values", "attention_mask"] if mask else ["input_values"]
    example = (torch.zeros(1, 16_000), torch.ones(1, 16_000, dtype=torch.long))[: len(inputs)]
    axes = {name: {0: "batch", 1: "n_samples"} for name in inputs}
    torch.onnx.export(
        _LogitsOnly(model).eval(),
        example,
        folder / "model.onnx",
        input_names=inputs,
        output_names=["logits"],
        dynamic_axes={**axes, "logits": {0: "batch", 1: "n_frames"}},
        opset_version=18,
        dynamo=False,
    )
    (folder / "model.safetensors").unlink()
    waveform = speech_like(20_000, 16_000)
    loaded = engine.load(str(folder), device="cpu", threads=1)
    features = loaded.compute_features(waveform)
    expected = compute_log_softmax(run_torch(model, features[None])[0])
    np.testing.assert_allclose(loaded.compute_log_probs(features), expected, atol=2e-3)
    assert loaded.acoustic.vocabulary == tuple(TOKENS)
    (folder / "model.onnx").rename(folder / "w2v.onnx")
    again = engine.load(str(folder / "w2v.onnx"), device="cpu", threads=1)
    text = again.transcribe(waveform).text
    assert text == loaded.transcribe(waveform).text
    assert text


def write_tokenizer(folder: Path, moved: int) -> None:
    """tokenizer_config.json and added_tokens.json, with the last tokens there instead of in vocab.json."""
    index = {token: at for at, token in enumerate(TOKENS)}
    added = dict(list(index.items())[len(index) - moved :])
    (folder / "vocab.json").write_text(json.dumps({t: i for t, i in index.items() if t not in added}))
    (folder / "added_tokens.json").write_text(json.dumps(added))
    tokenizer = {"word_delimiter_token": "|", "pad_token": "<pad>", "tokenizer_class": "Wav2Vec2CTCTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


class _LogitsOnly(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_values: Any, attention_mask: Any = None) -> Any:
        return self.model(input_values, attention_mask=attention_mask).logits

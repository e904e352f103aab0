"""Every family of CTC checkpoints, tiny and random, of its exact architecture, against transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnx")

import engine  # noqa: E402
from engine.acoustic.model import compute_log_softmax  # noqa: E402
from engine.bundle.folder import open_bundle  # noqa: E402
from export.acoustic.families import FAMILIES  # noqa: E402
from export.acoustic.pretrained import export_pretrained, load_pretrained  # noqa: E402
from export.acoustic.source import AcousticSource, ExportOptions  # noqa: E402
from export.errors import ExportError  # noqa: E402
from export.quantization.exactness import prove_exact  # noqa: E402
from export.verification import audio_cases  # noqa: E402
from export.verification.audio_cases import features_of, speech_like  # noqa: E402
from export.verification.verify import onnx_run  # noqa: E402
from tests.parity.test_export_wav2vec2 import LAYER_NORM, SIZES, TOKENS  # noqa: E402

CONFORMER = {"conv_depthwise_kernel_size": 7}
SQUEEZED = {"squeeze_factor": 2, "conv_kernel": [10, 3, 3, 3, 3, 2, 2], "conv_stride": [5, 2, 2, 2, 2, 2, 2]}
BERT = {key: SIZES[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")} | {
    "intermediate_size": 64,
    "feature_projection_input_dim": 160,
    **CONFORMER,
}
N_MELS = 16
# By what it is called here: the family's name in transformers, and how its configuration differs from SIZES.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "UniSpeech": ("UniSpeech", {}),
    "UniSpeech-SAT": ("UniSpeechSat", LAYER_NORM),
    "data2vec-audio": ("Data2VecAudio", {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 3}),
    "WavLM": ("WavLM", {"num_buckets": 32, "max_bucket_distance": 80}),
    "WavLM large": ("WavLM", {"num_buckets": 32, "max_bucket_distance": 80, **LAYER_NORM}),
    "SEW": ("SEW", SQUEEZED),
    "SEW-D": ("SEWD", {**SQUEEZED, "max_position_embeddings": 64, "position_buckets": 16}),
    "Wav2Vec2-Conformer relative": ("Wav2Vec2Conformer", CONFORMER),
    "Wav2Vec2-Conformer rotary": ("Wav2Vec2Conformer", {**CONFORMER, "position_embeddings_type": "rotary"}),
    "Wav2Vec2-BERT": ("Wav2Vec2Bert", BERT),
    "Wav2Vec2 with strided adapters": ("Wav2Vec2", {"add_adapter": True, "output_hidden_size": 32}),
    "HuBERT with batch norm": ("Hubert", {"conv_pos_batch_norm": True}),
    "Parakeet": ("Parakeet", {}),
}


def make_model(kind: str) -> Any:
    family, changes = KINDS[kind]
    torch.manual_seed(0)
    if family == "Parakeet":
        encoder = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
        }
        encoder |= {"conv_kernel_size": 5, "subsampling_conv_channels": 8, "num_mel_bins": N_MELS}
        config = transformers.ParakeetCTCConfig(
            vocab_size=len(TOKENS), pad_token_id=len(TOKENS) - 1, encoder_config=encoder
        )
    else:
        sizes = {"vocab_size": len(TOKENS), "pad_token_id": 0} if family == "Wav2Vec2Bert" else SIZES
        config = getattr(transformers, f"{family}Config")(**{**sizes, **changes})
    model = getattr(transformers, f"{family}ForCTC")(config).eval()
    for name, parameter in model.named_parameters():
        if "norm.weight" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.3)
        elif parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.0, 0.1)
    return model


def make_extractor(kind: str, sample_rate: int = 16_000) -> Any:
    if kind == "Parakeet":
        return transformers.ParakeetFeatureExtractor(feature_size=N_MELS)
    if kind == "Wav2Vec2-BERT":
        return transformers.SeamlessM4TFeatureExtractor()
    return transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True, sampling_rate=sample_rate)


def save_family(folder: Path, kind: str, **saving: Any) -> Path:
    make_model(kind).save_pretrained(folder, **saving)
    make_extractor(kind).save_pretrained(folder)
    tokens = [*TOKENS[1:], TOKENS[0]] if kind == "Parakeet" else TOKENS
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def find(kind: str) -> Path:
        return save_family(tmp_path_factory.mktemp("family") / "checkpoint", kind)

    return find


@pytest.fixture(scope="module")
def sources(checkpoints: Any) -> Any:
    return cache(lambda kind: load_pretrained(str(checkpoints(kind))))


def test_every_family_that_is_known_has_a_test() -> None:
    tested = {f"{family}ForCTC" for family, _ in KINDS.values()}
    assert {*FAMILIES} <= tested | {"Wav2Vec2ForCTC", "HubertForCTC"}


@pytest.mark.parametrize("kind", KINDS)
def test_graph_gives_what_the_checkpoint_gives_for_recordings_of_any_length(sources: Any, kind: str) -> None:
    """From the waveform on, by transformers' own extractor, with the mask that it makes."""
    source: AcousticSource = sources(kind)
    run = onnx_run(source.build(lambda block: "float32", None)[0])
    model, extractor = make_model(kind), make_extractor(kind)
    for n_samples in (4_801, 16_000, 37_120):
        waveform = speech_like(n_samples, 16_000)
        inputs = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            want = model(**inputs).logits[0].numpy()
        got = run(features_of(waveform, source.config)[None])[0]
        assert abs(len(got) - n_samples / source.config.samples_per_frame) < 3
        want = want[: len(got)]  # the last rows of some are of padding
        assert np.linalg.norm(got - want) <= 1e-3 * np.linalg.norm(want)
    features = features_of(waveform, source.config)
    together = run(np.stack([features, features[..., ::-1]]))  # and in a batch
    np.testing.assert_allclose(together[0], got, atol=2e-4)


@pytest.mark.parametrize("kind", ["WavLM", "SEW-D", "Wav2Vec2-BERT", "Parakeet"])
def test_int8_is_exact_on_every_processor_and_close(sources: Any, kind: str) -> None:
    source: AcousticSource = sources(kind)
    plain, blocks = source.build(lambda block: "float32", None)
    int8, _ = source.build(lambda block: "float32" if block == "head/output" else "int8", None)
    stored, _ = source.build(lambda block: "stored", None)
    assert prove_exact(int8)
    assert not {node.op_type for node in stored.graph.node} & {"DynamicQuantizeMatMul"}
    n_products = sum(node.op_type == "DynamicQuantizeMatMul" for node in int8.graph.node)
    assert n_products >= 10  # two layers of attention and feed-forward
    assert {"layer_0", "layer_1"} <= {name.split("/")[0] for name in blocks}
    features = features_of(speech_like(32_000, 16_000), source.config)[None]
    want = onnx_run(plain)(features)
    for model in (int8, stored):
        assert np.linalg.norm(onnx_run(model)(features) - want) < 0.12 * np.linalg.norm(want)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare on 3 and 6 s alone."""
    monkeypatch.setattr(audio_cases, "BUCKETS_S", (3.0, 6.0))


OPTIONS: dict[str, Any] = {"allow_slower": True, "sensitivity": False, "batches": False, "min_agreement": 0.8}


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(("kind", "precision"), [("WavLM", "int8"), ("Parakeet", "fp32")])
def test_traced_bundle_runs_in_the_engine_as_the_checkpoint_does(
    checkpoints: Any, tmp_path: Path, kind: str, precision: Any
) -> None:
    bundle = tmp_path / "bundle"
    report = export_pretrained(str(checkpoints(kind)), bundle, ExportOptions(precision=precision, **OPTIONS))
    assert not report.kernels
    card = (bundle / "README.md").read_text()
    assert "Computed by: onnxruntime; the engine's kernels do not compute blocks" in card
    loaded = engine.load(str(bundle), device="cpu", threads=1)
    assert loaded.acoustic.encoder.backend == "onnxruntime"
    waveform = speech_like(32_000, 16_000)
    inputs = make_extractor(kind)(waveform, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        want = compute_log_softmax(make_model(kind)(**inputs).logits[0].numpy())
    got = loaded.compute_log_probs(loaded.compute_features(waveform))
    limit = 1e-3 if precision == "fp32" else 0.1
    assert np.linalg.norm(got - want[: len(got)]) < limit * np.linalg.norm(want)
    greedy = engine.DecodingOptions(vad_filter=False, beam_width=1)
    assert all(word.end_s <= 2.0 for word in loaded.transcribe(waveform, options=greedy).words)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("kind", ["WavLM", "Parakeet"])
def test_blocks_are_searched_also_where_integer_products_saturate(
    sources: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on processors without VNNI: most blocks are stored in int8, the rest computed in it."""
    from export.acoustic.export import prepare, quantize

    monkeypatch.setattr("engine.runtime.onnx_session._products_saturate", lambda: True)
    options = ExportOptions(precision="int8", **{**OPTIONS, "min_agreement": 1.01})
    with prepare(sources(kind), options) as basis:
        found = quantize(basis, options)
        assert set(found.kept) == set(basis.blocks)  # no agreement is enough


def test_model_beyond_one_onnx_file_is_exported_with_weights_of_int8_alone(
    sources: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from export.acoustic import export
    from export.acoustic import source as module

    source: AcousticSource = sources("WavLM")
    assert source.n_parameters > 20_000
    monkeypatch.setattr(module, "MAX_PARAMETERS", 20_000)
    with pytest.raises(ExportError, match=r"--precision fp32 for 0 million weights.*2 GB.*precision int8"):
        export.export_acoustic(source, tmp_path / "out", ExportOptions(precision="fp32"))
    light = export.lighten(source).build(lambda block: "float32", None)[0]
    plain = source.build(lambda block: "float32", None)[0]
    assert light.ByteSize() < plain.ByteSize()
    assert not {node.op_type for node in light.graph.node} & {"DynamicQuantizeMatMul"}
    features = features_of(speech_like(16_000, 16_000), source.config)[None]
    want = onnx_run(plain)(features)
    assert np.linalg.norm(onnx_run(light)(features) - want) < 0.05 * np.linalg.norm(want)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("kind", ["WavLM", "UniSpeech"])
def test_a_large_checkpoint_is_read_from_a_file_and_gives_the_same_graph(
    checkpoints: Any, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export.acoustic import export
    from export.acoustic import source as module

    monkeypatch.setattr(module, "MAX_PARAMETERS", 20_000)
    monkeypatch.setattr(module, "MAX_MEASURED_ALONE", 20_000)
    loaded = load_pretrained(str(checkpoints(kind)))
    let_go, times = loaded.let_go, []
    asked = {**OPTIONS, "sensitivity": True, "batches": True}
    watched = replace(loaded, let_go=lambda: times.append(let_go()))
    export.export_acoustic(watched, tmp_path / "mapped", ExportOptions(**asked))
    assert len(times) >= 3  # after the reference, and after each graph
    monkeypatch.setattr("export.acoustic.pretrained.map_weights", lambda model: lambda: None)
    export_pretrained(str(checkpoints(kind)), tmp_path / "plain", ExportOptions(**OPTIONS))
    graphs = [(tmp_path / name / "acoustic.onnx").read_bytes() for name in ("mapped", "plain")]
    assert graphs[0] == graphs[1]
    figures = open_bundle(tmp_path / "mapped").manifest.acoustic.figures
    assert figures["sensitivity"] == {}  # of a large model's blocks only where all of them in int8 failed
    assert figures["batch_agreement"] == {}  # without a mask the engine makes no batches


def test_half_precision_of_a_traced_graph_is_refused_before_any_work(
    checkpoints: Any, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"--precision fp16 for a traced graph; expected fp32 or int8"):
        export_pretrained(str(checkpoints("SEW")), tmp_path / "out", ExportOptions(precision="fp16"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_checkpoint_in_half_precision_and_in_shards(tmp_path: Path, dtype: str) -> None:
    folder = tmp_path / "checkpoint"
    save_family(folder, "WavLM")
    half = make_model("WavLM").to(getattr(torch, dtype))
    half.save_pretrained(folder, max_shard_size="40KB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    source = load_pretrained(str(folder))
    values = speech_like(8_000, 16_000)[None]
    with torch.inference_mode():
        want = half.float()(torch.from_numpy(values)).logits.numpy()
    np.testing.assert_allclose(source.reference(values), want, atol=1e-5)
    next(iter(folder.glob("model-*.safetensors"))).unlink()
    with pytest.raises(ExportError, match=r"1 parts of the weights are missing \(model-.*fix: download"):
        load_pretrained(str(folder))


def test_extractor_with_other_features_is_refused(tmp_path: Path) -> None:
    folder = save_family(tmp_path / "checkpoint", "Parakeet")
    transformers.ParakeetFeatureExtractor(feature_size=N_MELS, preemphasis=0.5).save_pretrained(folder)
    with pytest.raises(ExportError, match=r"features differ from the engine's"):
        load_pretrained(str(folder))


def test_source_says_what_a_family_is_fed(sources: Any) -> None:
    found = {kind: sources(kind).config for kind in ("WavLM", "Wav2Vec2-BERT", "Parakeet")}
    assert [config.features.convention for config in found.values()] == ["whisper", "kaldi", "nemo"]
    assert [config.samples_per_frame for config in found.values()] == [320, 320, 1280]
    assert found["Parakeet"].blank_id == len(TOKENS) - 1

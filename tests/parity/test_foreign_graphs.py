"""CTC graphs as sherpa-onnx, onnx-asr, torch and optimum-cli write them, run as they are."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import engine  # noqa: E402
from engine.acoustic.features import compute_features  # noqa: E402
from engine.acoustic.model import compute_log_softmax  # noqa: E402
from engine.bundle.folder import open_bundle  # noqa: E402
from engine.bundle.schema import FeatureConfig  # noqa: E402
from engine.bundle.tokens_file import read_tokens_file  # noqa: E402
from engine.errors import BundleError, BundleNotFoundError, BundleSchemaError  # noqa: E402
from export.cli import main  # noqa: E402

LETTERS = ["<blk>", " ", *"abcdefghijklmnopqrstuvwxyz"]
TOKENS = "".join(f"{token} {index}\n" for index, token in enumerate(LETTERS))
NEMO = FeatureConfig(kind="log_mel", n_fft=512, convention="nemo")
ICEFALL = FeatureConfig(
    kind="log_mel",
    n_fft=512,
    convention="kaldi",
    normalize=False,
    snip_edges=False,
    high_hz=-400.0,
    scale=1.0,
)
WENET = FeatureConfig(kind="log_mel", n_fft=512, convention="kaldi", normalize=False)
WAVEFORM = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)
GREEDY = engine.DecodingOptions(vad_filter=False, beam_width=1)


def make_graph(
    features: str, lengths: str = "", *, rows_first: bool = False, factor: int = 4, output: str = "logprobs",
    metadata: dict[str, str] | None = None, integer: int = TensorProto.INT64, n_mels: Any = 80,
) -> Any:  # fmt: skip
    """Every factor-th frame times random weights; lengths only have to be there."""
    weight = np.random.default_rng(1).normal(0, 1, (80, len(LETTERS))).astype(np.float32)
    shape = ["N", "T", n_mels] if rows_first else ["N", n_mels, "T"]
    inputs = [helper.make_tensor_value_info(features, TensorProto.FLOAT, shape)]
    nodes, rows = [], features
    if not rows_first:
        nodes.append(helper.make_node("Transpose", [features], ["rows"], perm=[0, 2, 1]))
        rows = "rows"
    nodes += [
        helper.make_node("Slice", [rows, "zero", "end", "one", "step"], ["chosen"]),
        helper.make_node("MatMul", ["chosen", "weight"], ["product"]),
    ]
    last = "product"
    if lengths:
        inputs.append(helper.make_tensor_value_info(lengths, integer, ["N"]))
        nodes += [
            helper.make_node("Cast", [lengths], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["real", "nought"], ["ignored"]),
            helper.make_node("Unsqueeze", ["ignored", "axes"], ["column"]),
            helper.make_node("Add", ["product", "column"], ["sum"]),
        ]
        last = "sum"
    nodes.append(helper.make_node("LogSoftmax", [last], [output], axis=-1))
    constants = {
        "zero": np.array([0]),
        "end": np.array([2**31]),
        "one": np.array([1]),
        "axes": np.array([1, 2]),
    }
    constants |= {"step": np.array([factor]), "weight": weight, "nought": np.array(0.0, np.float32)}
    graph = helper.make_graph(
        nodes, "ctc", inputs,
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", "F", len(LETTERS)])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    return model


def expected(config: FeatureConfig, factor: int) -> Any:
    features = compute_features(WAVEFORM, config).T[::factor]
    weight = np.random.default_rng(1).normal(0, 1, (80, len(LETTERS))).astype(np.float32)
    return compute_log_softmax(features @ weight)


def save(folder: Path, model: Any, tokens: str = "tokens.txt", **files: Any) -> Path:
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    if tokens:
        (folder / tokens).write_text(TOKENS, encoding="utf-8")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


NEMO_META = {"vocab_size": "28", "normalize_type": "per_feature", "subsampling_factor": "8"}
KINDS: dict[str, tuple[Callable[[], Any], FeatureConfig, int]] = {
    "sherpa-onnx nemo": (
        lambda: make_graph(
            "audio_signal", "length", factor=8, metadata={"model_type": "EncDecCTCModel", **NEMO_META}
        ),
        NEMO,
        8,
    ),
    "sherpa-onnx zipformer": (
        lambda: make_graph(
            "x", "x_lens", rows_first=True, output="log_probs", metadata={"model_type": "zipformer2_ctc"}
        ),
        ICEFALL,
        4,
    ),
    "sherpa-onnx wenet": (
        lambda: make_graph(
            "x", "x_lens", rows_first=True, n_mels="C", integer=TensorProto.INT32,
            metadata={"model_type": "wenet_ctc", "subsampling_factor": "6"}, factor=6,
        ),
        WENET,
        6,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_graph_with_metadata_of_sherpa_runs_as_it_is(tmp_path: Path, kind: str) -> None:
    make, features, factor = KINDS[kind]
    folder = save(tmp_path / "model", make())
    loaded = engine.load(str(folder / "model.onnx"), device="cpu", threads=1)
    assert loaded.acoustic.config.features == features
    assert loaded.acoustic.frame_s == pytest.approx(0.01 * factor)
    got = loaded.compute_log_probs(loaded.compute_features(WAVEFORM))
    np.testing.assert_allclose(got, expected(features, factor)[: len(got)], atol=2e-3)
    words = loaded.transcribe(WAVEFORM, options=GREEDY).words
    assert all(word.end_s <= 1.5 + loaded.acoustic.frame_s for word in words)
    assert words or "wenet" in kind  # whose features, of 16 bits, make one letter of all


def test_folder_of_onnx_asr_runs_as_it_is(tmp_path: Path) -> None:
    config = {"model_type": "nemo-conformer-ctc", "features_size": 80, "subsampling_factor": 4}
    folder = save(tmp_path / "model", make_graph("audio_signal", "length"), "vocab.txt", config=config)
    loaded = engine.load(str(folder), device="cpu", threads=1)
    got = loaded.compute_log_probs(loaded.compute_features(WAVEFORM))
    np.testing.assert_allclose(got, expected(NEMO, 4)[: len(got)], atol=2e-3)
    assert loaded.acoustic.vocabulary == tuple(LETTERS)


def test_options_describe_what_a_graph_does_not_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save(tmp_path / "model", make_graph("x", "x_lens", rows_first=True), tokens="")
    (tmp_path / "letters.txt").write_text(TOKENS)
    graph, out = str(folder / "model.onnx"), tmp_path / "bundle"
    assert main(["onnx", graph, str(out)]) == 1
    assert "no vocabulary beside" in capsys.readouterr().err
    command = ["onnx", graph, str(out), "--tokens", str(tmp_path / "letters.txt")]
    assert main(command) == 1
    assert "does not say which" in capsys.readouterr().err
    assert main([*command, "--features", "icefall", "--subsampling", "40"]) == 1
    assert "samples_per_frame and vocabulary say" in capsys.readouterr().err
    assert main([*command, "--features", "icefall", "--subsampling", "4", "--blank", "<pad>"]) == 1
    assert "--blank '<pad>'" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--features", "icefall", "--subsampling", "4", "--licence", "MIT"]) == 0
    loaded = engine.load(str(out), device="cpu", threads=1)
    got = loaded.compute_log_probs(loaded.compute_features(WAVEFORM))
    np.testing.assert_allclose(got, expected(ICEFALL, 4)[: len(got)], atol=2e-3)
    card = (out / "README.md").read_text()
    assert "Licence: MIT" in card and "high_hz: -400.0" in card


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        (make_graph("x"), {}, r"reads features \(x \[\?, 80, \?\]\) and does not say which"),
        (
            make_graph("x", metadata={"model_type": "telespeech_ctc"}), {},
            r"model_type 'telespeech_ctc'; expected a CTC model of EncDecCTCModel",
        ),
        (
            make_graph("x", metadata={"model_type": "EncDecCTCModel", "is_giga_am": "1"}), {},
            "GigaAM's features",
        ),
        (
            make_graph("x", metadata={"model_type": "EncDecCTCModel", "normalize_type": "all_features"}), {},
            "normalize_type 'all_features'",
        ),
        (make_graph("x"), {"model_type": "nemo-conformer-tdt"}, "does not say which"),
        (
            make_graph("x", metadata={"model_type": "wenet_ctc", "subsampling_factor": "four"}), {},
            "subsampling_factor 'four'",
        ),
    ],
)  # fmt: skip
def test_features_that_are_not_known_are_refused(
    tmp_path: Path, model: Any, config: dict[str, Any], message: str
) -> None:
    folder = save(tmp_path / "model", model)
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BundleSchemaError, match=message):
        open_bundle(folder)


def test_graph_with_other_inputs_is_one_error_that_names_them(tmp_path: Path) -> None:
    """A transducer's encoder, for instance, with the state of a stream."""
    model = make_graph("audio_signal", "length", metadata={"model_type": "EncDecCTCModel", **NEMO_META})
    model.graph.input.append(helper.make_tensor_value_info("cache", TensorProto.FLOAT, [1, 2, 3, 4]))
    folder = save(tmp_path / "model", model)
    with pytest.raises(BundleSchemaError) as caught:
        engine.load(str(folder), device="cpu", threads=1)
    for part in (
        "audio_signal [?, 80, ?]",
        "length [?]",
        "cache [1, 2, 3, 4]",
        "one float32 input [batch, n_mels",
    ):
        assert part in str(caught.value)


def test_weights_in_a_file_beside_the_graph_are_read_and_those_elsewhere_refused(tmp_path: Path) -> None:
    """As torch's newer exporter writes them."""
    folder = save(tmp_path / "model", make_graph("x"))
    metadata = {"model_type": "zipformer2_ctc"}
    outside = {
        "save_as_external_data": True,
        "location": "w2v.onnx.data",
        "size_threshold": 1024,
    }  # weights, not shapes
    onnx.save(make_graph("x", metadata=metadata), folder / "w2v.onnx", **outside)
    loaded = engine.load(str(folder / "w2v.onnx"), device="cpu", threads=1)
    got = loaded.compute_log_probs(loaded.compute_features(WAVEFORM))
    np.testing.assert_allclose(got, expected(ICEFALL, 4)[: len(got)], atol=2e-3)
    weights = folder / "w2v.onnx.data"
    weights.rename(tmp_path / "w2v.onnx.data")
    for linked in (False, True):
        if linked:
            weights.symlink_to(tmp_path / "w2v.onnx.data")
        with pytest.raises(
            BundleError, match=r"keeps weights in 'w2v\.onnx\.data', which is not a file next to it"
        ):
            engine.load(str(folder / "w2v.onnx"), device="cpu", threads=1)


@pytest.mark.filterwarnings("ignore")
def test_what_torchs_newer_exporter_writes_runs_as_it_is(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript", reason="the newer exporter needs onnxscript")
    from export.acoustic.wav2vec2 import run_torch
    from tests.parity.test_export_wav2vec2 import _LogitsOnly, make_model, save_checkpoint

    folder, model = save_checkpoint(tmp_path / "model"), make_model("wav2vec2-base")
    free = torch.export.Dim("n_samples", min=400)
    torch.onnx.export(
        _LogitsOnly(model).eval(), (torch.zeros(1, 16_000),), folder / "w2v.onnx", dynamo=True, verbose=False,
        dynamic_shapes={"input_values": {1: free}},
    )  # fmt: skip
    loaded = engine.load(str(folder / "w2v.onnx"), device="cpu", threads=1)
    features = loaded.compute_features(WAVEFORM)
    want = compute_log_softmax(run_torch(model, features[None])[0])
    np.testing.assert_allclose(loaded.compute_log_probs(features), want, atol=2e-3)


def test_model_without_any_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", make_graph("x"), tokens="")
    with pytest.raises(BundleNotFoundError, match=r"vocab\.json .*tokens\.txt or vocab\.txt"):
        open_bundle(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a 0\nb\n", r"line 2 of tokens\.txt is 'b'"),
        (b"a 0\na 1\n", "line 2"),
        (b"a zero\n", "line 1"),
        ("a ²\n".encode(), "line 1"),
        (b"\xff\xfe", "not UTF-8"),
        (b"a 0\nb 2\n", "gaps or repeated"),
        (b"", "gaps or repeated"),
    ],
)
def test_damaged_tokens_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    folder = save(tmp_path / "model", make_graph("x", metadata={"model_type": "wenet_ctc"}))
    (folder / "tokens.txt").write_bytes(content)
    with pytest.raises(BundleError, match=message):
        open_bundle(folder)


def test_tokens_may_be_a_space_or_hold_one(tmp_path: Path) -> None:
    path = tmp_path / "tokens.txt"
    path.write_text("\ufeff<blk> 0\r\n  1\r\n▁a 2\n\n")
    assert read_tokens_file(path) == {"<blk>": 0, " ": 1, "▁a": 2}
    path.write_text("<blk> 0\n 1\n")
    assert read_tokens_file(path) == {"<blk>": 0, " ": 1}


def test_cut_off_file_is_still_one_typed_error(tmp_path: Path) -> None:
    model = make_graph("audio_signal", metadata={"model_type": "EncDecCTCModel", **NEMO_META})
    folder = save(tmp_path / "model", model)
    content = (folder / "model.onnx").read_bytes()
    for end in (0, 1, 40, len(content) // 2, len(content) - 3):
        (folder / "model.onnx").write_bytes(content[:end])
        with pytest.raises(engine.EngineError):
            engine.load(str(folder), device="cpu", threads=1)
    (folder / "model.onnx").write_bytes(struct.pack("<Q", 2**63) * 4)
    with pytest.raises(engine.EngineError):
        engine.load(str(folder), device="cpu", threads=1)

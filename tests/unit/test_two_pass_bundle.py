"""Bundles with a second pass: what fits opens, what does not is refused before anything runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
onnx = pytest.importorskip("onnx")

from engine.acoustic.model import AcousticModel  # noqa: E402
from engine.bundle.folder import Bundle, open_bundle, write_bundle  # noqa: E402
from engine.bundle.schema import SecondPassConfig  # noqa: E402
from engine.bundle.target import FILE_NAMES  # noqa: E402
from engine.cli.info import describe_bundle  # noqa: E402
from engine.errors import BundleSchemaError, CancelledError, DeviceError, ModelCapabilityError  # noqa: E402
from engine.kernels.vector.levels import has_vector_kernels  # noqa: E402
from engine.runtime.cancel import CancelToken  # noqa: E402
from engine.runtime.onnx_session import open_session  # noqa: E402
from engine.two_pass import runners  # noqa: E402
from engine.two_pass.runners import open_decoder  # noqa: E402
from engine.two_pass.tokens import read_tokens  # noqa: E402
from engine.types import RuntimeOptions  # noqa: E402
from export.bundle import Parts, assemble_bundle  # noqa: E402
from tests.reference.tiny_two_pass import (  # noqa: E402
    PROMPT,
    SIZES,
    VOCAB_SIZE,
    bundle_folder,
    make_decoder,
    make_model,
    write_decoder,
)

pytestmark = pytest.mark.levels
BACKENDS = ["onnxruntime", *(["kernels"] if has_vector_kernels() else [])]
ROLES = ("asr_memory", "asr_decoder", "asr_embeddings", "asr_tokens")


def options(backend: str = "auto") -> RuntimeOptions:
    return RuntimeOptions(device="cpu", backend=backend)


def config_of(bundle: Bundle) -> SecondPassConfig:
    assert bundle.manifest.second_pass is not None
    return bundle.manifest.second_pass


def changed(tmp_path: Path, files: dict[str, Path] | None = None, **changes: Any) -> Bundle:
    """The int8 bundle with other files or another configuration."""
    bundle = open_bundle(bundle_folder())
    kept = {entry.role: bundle.file(entry.role) for entry in bundle.manifest.files} | (files or {})
    second_pass = msgspec.structs.replace(config_of(bundle), **changes)
    folder = write_bundle(
        tmp_path / "changed", name="changed", licence="CC0", files=kept, card="",
        acoustic=bundle.manifest.acoustic, second_pass=second_pass,
    )  # fmt: skip
    return open_bundle(folder)


def features_of(acoustic: AcousticModel) -> np.ndarray:
    return acoustic.compute_features(np.random.default_rng(0).standard_normal(20_000).astype(np.float32))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wide", [False, True])
def test_states_are_the_encoders_and_the_log_probs_stay_the_same_bits(backend: str, wide: bool) -> None:
    import torch

    acoustic = AcousticModel(open_bundle(bundle_folder()), options(backend))
    assert acoustic.encoder.backend == backend and acoustic.states_size == SIZES["hidden_size"]
    features = features_of(acoustic)
    log_probs, states = acoustic.compute_states(features, wide=wide)
    np.testing.assert_array_equal(log_probs, acoustic.compute_log_probs(features, wide=wide))
    assert len(states) == len(log_probs) + 25  # half a second of tail silence
    assert states.dtype == np.float32 and states.flags.c_contiguous
    with torch.inference_mode():
        wanted = make_model().ctc.encode(torch.from_numpy(features[None]))[0].numpy()
    assert np.linalg.norm(states - wanted) < 0.1 * np.linalg.norm(wanted)
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(CancelledError):
        acoustic.compute_states(features, cancel)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_encoder_without_states_says_so(backend: str, tmp_path: Path) -> None:
    plain = open_bundle(bundle_folder(states=False))
    with pytest.raises(BundleSchemaError, match="no states for a decoder over 128"):
        AcousticModel(plain, options(backend))
    files = {role: plain.file(role) for role in ("acoustic", "vocabulary")}
    write_bundle(
        tmp_path / "first", name="first", licence="CC0", files=files, card="",
        acoustic=plain.manifest.acoustic,
    )  # fmt: skip
    acoustic = AcousticModel(open_bundle(tmp_path / "first"), options(backend))
    with pytest.raises(ModelCapabilityError, match="without the output 'states'"):
        acoustic.compute_states(features_of(acoustic))
    assert acoustic.states_size is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_both_passes_of_a_bundle_run(backend: str) -> None:
    bundle = open_bundle(bundle_folder())
    acoustic = AcousticModel(bundle, options(backend))
    decoder = open_decoder(bundle, config_of(bundle), options(backend))
    assert decoder.backend == backend and decoder.choice is not None and decoder.choice.backend == backend
    steps = decoder.start(acoustic.compute_states(features_of(acoustic))[1], 2, 10, None)
    assert steps.prefill(np.array(PROMPT), None).shape == (4, VOCAB_SIZE)
    assert steps.step(np.array([7, 9]), np.array([0, 0]), None).shape == (2, VOCAB_SIZE)


def test_float_graphs_are_onnxruntimes() -> None:
    bundle = open_bundle(bundle_folder("fp32"))
    assert open_decoder(bundle, config_of(bundle), options()).backend == "onnxruntime"
    with pytest.raises(DeviceError, match="kernels"):
        open_decoder(bundle, config_of(bundle), options("kernels"))


def test_the_embeddings_are_stored_once() -> None:
    bundle = open_bundle(bundle_folder())
    table = bundle.read("asr_embeddings")
    assert len(table) == VOCAB_SIZE * SIZES["hidden_size"]
    graph = onnx.load(bundle.file("asr_decoder"), load_external_data=False).graph
    outside = [t for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert [(tuple(t.dims), t.data_type) for t in outside] == [((VOCAB_SIZE, 128), onnx.TensorProto.INT8)]
    readers = [node.op_type for node in graph.node if outside[0].name in node.input]
    assert sorted(readers) == ["Gather", "Transpose"]
    assert table not in bundle.read("asr_decoder") and table not in bundle.read("asr_memory")


def test_int8_files_are_about_a_quarter_of_float_ones() -> None:
    small, large = (open_bundle(bundle_folder(precision)) for precision in ("int8", "fp32"))
    for role in ("asr_memory", "asr_decoder", "asr_embeddings"):
        assert small.file(role).stat().st_size < 0.35 * large.file(role).stat().st_size


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"vocab_size": VOCAB_SIZE + 1}, "101 tokens for a decoder of 102"),
        ({"prompt": (1, 2, VOCAB_SIZE)}, r"special tokens \[101\]"),
        ({"prompt": ()}, "a prompt of 0 tokens"),
        ({"end_id": 500}, "special tokens"),
        ({"no_speech_id": 500}, "special tokens"),
        ({"prompt": tuple(range(40))}, "a prompt of 40 tokens where 40 have room"),
        ({"n_heads": 8}, "8 heads of 32 over 128"),
        ({"n_heads": 2, "head_dim": 64}, "of shape"),
        ({"n_layers": 1}, "a graph with 'cross_key_1'"),
        ({"n_layers": 3}, "a graph without 'cross_key_2'"),
        ({"hidden_size": 160, "n_heads": 5}, "'states' of shape"),
    ],
)
def test_a_configuration_of_another_decoder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, changes: dict[str, Any], match: str
) -> None:
    bundle = changed(tmp_path, **changes)
    for name in ("KernelRunner", "SessionRunner"):
        monkeypatch.setattr(runners, name, None)  # nothing is built, let alone run
    with pytest.raises(BundleSchemaError, match=match) as caught:
        open_decoder(bundle, config_of(bundle), options(backend))
    assert caught.value.want and caught.value.fix and "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_files_of_another_decoder_are_refused(tmp_path: Path, backend: str) -> None:
    other = write_decoder(make_decoder(n_layers=1, vocab_size=90), tmp_path / "other", "int8")
    for role in ROLES:
        bundle = changed(tmp_path, {role: other[role]})
        with pytest.raises(BundleSchemaError):
            open_decoder(bundle, config_of(bundle), options(backend))


def test_an_encoder_of_another_width_is_refused(tmp_path: Path) -> None:
    other = write_decoder(make_decoder(hidden_size=64, n_heads=2), tmp_path / "other", "int8")
    bundle = changed(tmp_path, other, hidden_size=64, n_heads=2)
    open_decoder(bundle, config_of(bundle), options())  # fits in itself
    with pytest.raises(BundleSchemaError, match="states of 128 channels for a decoder over 64"):
        AcousticModel(bundle, options())


@pytest.mark.parametrize("content", ["{}", "[1, 2]", '["a", null]', "not json"])
def test_tokens_that_are_no_list_of_strings_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokens.json").write_text(content)
    bundle = changed(tmp_path, {"asr_tokens": tmp_path / "tokens.json"})
    with pytest.raises(BundleSchemaError, match=r"asr_tokens\.json is not a list of tokens"):
        read_tokens(bundle)
    with pytest.raises(BundleSchemaError):
        open_decoder(bundle, config_of(bundle), options())


def test_a_damaged_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "graph").write_bytes(b"\x08\x08nothing")
    bundle = changed(tmp_path, {"asr_decoder": tmp_path / "graph"})
    with pytest.raises(BundleSchemaError, match=r"asr_decoder\.onnx: not a readable ONNX model"):
        open_decoder(bundle, config_of(bundle), options())


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    bundle = open_bundle(bundle_folder())
    files = {role: bundle.file(role) for role in ROLES if role != "asr_embeddings"}
    folder = write_bundle(
        tmp_path / "less", name="less", licence="CC0", files=files, card="", second_pass=config_of(bundle)
    )
    with pytest.raises(ModelCapabilityError, match="asr_embeddings"):
        open_decoder(open_bundle(folder), config_of(bundle), options())


@pytest.mark.skipif(not has_vector_kernels(), reason="no vector kernels at this level")
def test_a_sum_that_the_kernels_do_not_know_is_left_to_onnxruntime(tmp_path: Path) -> None:
    """The rows of the last layer were raised before they were rounded; a graph with another shift differs."""
    folder = tmp_path / "parts"
    shutil.copytree(bundle_folder(), folder)
    model = onnx.load(folder / FILE_NAMES["asr_decoder"], load_external_data=False)
    added = [node for node in model.graph.node if node.name.startswith("layer_0/feed_out/Add")][-1]
    tensor = next(t for t in model.graph.initializer if t.name in added.input)
    tensor.raw_data = np.ones(128, np.float32).tobytes()
    (tmp_path / "graph").write_bytes(model.SerializeToString())
    bundle = changed(tmp_path, {"asr_decoder": tmp_path / "graph"})
    opened = open_decoder(bundle, config_of(bundle), options())
    assert opened.backend == "onnxruntime"
    assert opened.choice is not None and "that is not known here" in opened.choice.why
    with pytest.raises(DeviceError, match="not known here"):
        open_decoder(bundle, config_of(bundle), options("kernels"))


def test_assembled_bundles_keep_the_second_pass(tmp_path: Path) -> None:
    folder = assemble_bundle(tmp_path / "whole", Parts(acoustic=bundle_folder()), name="whole", licence="CC0")
    bundle = open_bundle(folder)
    assert config_of(bundle) == config_of(open_bundle(bundle_folder()))
    assert all(bundle.has(role) for role in ROLES)
    assert "2nd pass  int8, 101 tokens, 2 decoder layers, 5 beams" in describe_bundle(bundle)


def test_old_manifests_have_no_second_pass(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(bundle_folder(), folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["second_pass"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert open_bundle(folder).manifest.second_pass is None
    assert AcousticModel(open_bundle(folder), options()).states_size == 128


def test_settings_of_the_search_have_defaults() -> None:
    config = config_of(open_bundle(bundle_folder()))
    found = (config.beam_size, config.ctc_weight, config.lm_weight, config.word_bonus, config.confidence)
    assert found == (5, 0.1, 0.1, 0.5, {})
    assert open_session(open_bundle(bundle_folder()).file("asr_memory"), options()).input_names == ("states",)

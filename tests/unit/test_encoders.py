"""Which encoder is opened for a bundle, in which arithmetic, and what is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.kernels.vector.levels import has_vector_kernels

for package in ("torch", "transformers", "onnx"):
    pytest.importorskip(package)

import onnx  # noqa: E402

from engine.acoustic import encoders  # noqa: E402
from engine.acoustic.model import AcousticModel  # noqa: E402
from engine.bundle.folder import AcousticConfig, Bundle, FeatureConfig, open_bundle, write_bundle  # noqa: E402
from engine.errors import (  # noqa: E402
    BundleSchemaError,
    CancelledError,
    DeviceError,
    EngineError,
    ModelError,
    OptionError,
)
from engine.runtime import backend  # noqa: E402
from engine.runtime.backend import Choice  # noqa: E402
from engine.runtime.cancel import CancelToken  # noqa: E402
from engine.types import RuntimeOptions  # noqa: E402
from tests.reference.tiny_encoders import N_TOKENS, features_for, log_mel_encoder, waveform_encoder  # noqa: E402

pytestmark = pytest.mark.levels

needs_vectors = pytest.mark.skipif(
    not has_vector_kernels(), reason="no vector kernels at this instruction set level"
)
WAVEFORM, MEL = FeatureConfig(normalize=False), FeatureConfig(kind="log_mel")
MakeBundle = Callable[..., Bundle]


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    def make(
        precision: str = "int8", kind: str = "group norm", graph: bytes | None = None,
        n_tokens: int = N_TOKENS, **config: Any,
    ) -> Bundle:  # fmt: skip
        mel = kind in ("sinks", "two lstm layers")
        encoder = (log_mel_encoder if mel else waveform_encoder)(kind, smallest=True)
        (tmp_path / "graph.onnx").write_bytes(encoder.graphs[precision] if graph is None else graph)
        tokens = {"<pad>": 0, "|": 1, **{chr(0x100 + i): i + 2 for i in range(n_tokens - 2)}}
        (tmp_path / "tokens.json").write_text(json.dumps(tokens))
        settings = {"features": MEL if mel else WAVEFORM, "precision": precision, **config}
        files = {"acoustic": tmp_path / "graph.onnx", "vocabulary": tmp_path / "tokens.json"}
        acoustic = AcousticConfig(**settings)
        folder = write_bundle(tmp_path / "b", name="t", licence="x", files=files, card="", acoustic=acoustic)
        return open_bundle(folder)

    return make


def open_with(bundle: Bundle, **options: Any) -> encoders.Encoder:
    config = bundle.manifest.acoustic
    assert config is not None
    return encoders.open_encoder(bundle, config, RuntimeOptions(**{"device": "cpu", "threads": 2, **options}))


def what_of(encoder: encoders.Encoder) -> tuple[str, str, str]:
    return encoder.backend, encoder.compute_type, encoder.device


def assert_says_got_want_fix(error: EngineError) -> None:
    assert error.got and error.want and error.fix
    assert "\n" not in str(error)


@needs_vectors
@pytest.mark.parametrize(
    ("precision", "options", "wanted"),
    [
        ("int8", {}, ("kernels", "int8", "cpu")),
        ("int8", {"compute_type": "int8"}, ("kernels", "int8", "cpu")),
        ("int8", {"compute_type": "bf16"}, ("kernels", "bf16", "cpu")),
        ("int8", {"backend": "kernels"}, ("kernels", "int8", "cpu")),
        ("int8", {"backend": "kernels", "compute_type": "bf16"}, ("kernels", "bf16", "cpu")),
        ("int8", {"backend": "onnxruntime"}, ("onnxruntime", "int8", "cpu")),
        ("fp32", {}, ("onnxruntime", "fp32", "cpu")),
        ("fp32", {"compute_type": "fp32"}, ("onnxruntime", "fp32", "cpu")),
        ("fp32", {"compute_type": "bf16"}, ("kernels", "bf16", "cpu")),
        ("fp32", {"backend": "kernels", "compute_type": "bf16"}, ("kernels", "bf16", "cpu")),
        ("fp32", {"backend": "onnxruntime"}, ("onnxruntime", "fp32", "cpu")),
    ],
)
def test_backend_and_arithmetic_are_as_asked(
    make_bundle: MakeBundle, precision: str, options: dict[str, str], wanted: tuple[str, str, str]
) -> None:
    assert what_of(open_with(make_bundle(precision), **options)) == wanted


@needs_vectors
@pytest.mark.parametrize(
    ("precision", "options", "said"),
    [
        ("fp32", {"backend": "kernels"}, "do not compute a fp32 graph in fp32"),
        ("fp32", {"backend": "kernels", "compute_type": "int8"}, "do not compute a fp32 graph in int8"),
        ("int8", {"backend": "kernels", "compute_type": "fp32"}, "do not compute a int8 graph in fp32"),
        ("int8", {"backend": "kernels", "device": "cuda"}, "on the CPU only"),
        ("int8", {"compute_type": "bf16", "device": "cuda"}, "on the CPU only"),
        ("fp32", {"compute_type": "bf16", "backend": "onnxruntime"}, "onnxruntime was asked for"),
        ("int8", {"compute_type": "bf16", "backend": "onnxruntime"}, "onnxruntime was asked for"),
        ("fp32", {"compute_type": "int8"}, "compute type 'int8'"),
        ("int8", {"compute_type": "fp32"}, "compute type 'fp32'"),
        ("int8", {"compute_type": "fp16", "backend": "onnxruntime"}, "compute type 'fp16'"),
    ],
)
def test_what_cannot_be_had_is_one_clear_error(
    make_bundle: MakeBundle, precision: str, options: dict[str, str], said: str
) -> None:
    with pytest.raises(DeviceError, match=said) as caught:
        open_with(make_bundle(precision), **options)
    assert_says_got_want_fix(caught.value)


def test_an_unknown_backend_is_refused_with_the_known_ones(make_bundle: MakeBundle) -> None:
    with pytest.raises(OptionError, match=r"'tensorrt'.*auto, kernels or onnxruntime") as caught:
        open_with(make_bundle(), backend="tensorrt")
    assert_says_got_want_fix(caught.value)


def without_names(graph: bytes) -> bytes:
    """The same graph as another tool might write it."""
    model = onnx.load_model_from_string(graph)
    for index, node in enumerate(model.graph.node):
        node.name = f"node_{index}"
    return model.SerializeToString()


@needs_vectors
def test_graph_of_another_exporter_is_run_by_onnxruntime(
    make_bundle: MakeBundle, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = without_names(waveform_encoder("group norm", smallest=True).graphs["int8"])
    with caplog.at_level(logging.DEBUG, logger="engine"):
        encoder = open_with(make_bundle(graph=foreign))
    assert what_of(encoder) == ("onnxruntime", "int8", "cpu")
    assert "onnxruntime runs the encoder" in caplog.text
    assert encoder.run(features_for("input_values", 8000), None, False).shape == (24, N_TOKENS)


@needs_vectors
@pytest.mark.parametrize("options", [{"backend": "kernels"}, {"compute_type": "bf16"}])
def test_graph_of_another_exporter_is_refused_where_the_kernels_were_asked_for(
    make_bundle: MakeBundle, options: dict[str, str]
) -> None:
    foreign = without_names(waveform_encoder("group norm", smallest=True).graphs["int8"])
    with pytest.raises(DeviceError, match="do not compute") as caught:
        open_with(make_bundle(graph=foreign), **options)
    assert_says_got_want_fix(caught.value)
    with pytest.raises(DeviceError, match="more than one LSTM layer"):
        open_with(make_bundle(kind="two lstm layers"), **options)


@needs_vectors
def test_what_is_no_graph_at_all_is_refused_by_both(make_bundle: MakeBundle) -> None:
    with pytest.raises(ModelError, match="cannot load") as caught:
        open_with(make_bundle(graph=b"no graph"))
    assert_says_got_want_fix(caught.value)
    with pytest.raises(DeviceError, match="not a readable ONNX model"):
        open_with(make_bundle(graph=b"no graph"), backend="kernels")


def test_processor_without_the_features_takes_onnxruntime(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "has_vector_kernels", lambda: False)
    monkeypatch.setattr(backend, "available", tuple)
    assert what_of(open_with(make_bundle())) == ("onnxruntime", "int8", "cpu")
    for options in ({"backend": "kernels"}, {"compute_type": "bf16"}):
        with pytest.raises(DeviceError, match="lacks AVX2 or FMA") as caught:
            open_with(make_bundle(), **options)
        assert_says_got_want_fix(caught.value)


def test_all_reasons_are_given_at_once(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "has_vector_kernels", lambda: False)
    monkeypatch.setattr(backend, "available", tuple)
    with pytest.raises(DeviceError, match=r"CPU only; .* lacks AVX2 .*; the kernels do not compute"):
        open_with(make_bundle("fp32"), backend="kernels", device="cuda")


@needs_vectors
def test_this_processor_takes_the_kernels(make_bundle: MakeBundle) -> None:
    assert open_with(make_bundle()).backend == "kernels"


@needs_vectors
def test_working_graphics_card_is_not_passed_over_for_the_kernels(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "resolve_device", lambda options: "cuda")
    opened: list[RuntimeOptions] = []

    def no_session(
        graph: bytes, name: str, config: AcousticConfig, options: RuntimeOptions, choice: Choice
    ) -> None:
        opened.append(options)
        raise DeviceError("a session", "none here", "")

    monkeypatch.setattr(encoders, "SessionEncoder", no_session)
    with pytest.raises(DeviceError, match="a session"):
        open_with(make_bundle(), device="auto")
    assert [options.device for options in opened] == ["auto"]
    assert open_with(make_bundle(), device="auto", backend="kernels").backend == "kernels"


BACKENDS = [pytest.param("kernels", marks=needs_vectors), "onnxruntime"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"n_tokens": 20}, f"head has {N_TOKENS} outputs, the vocabulary 20"),
        ({"blank_id": N_TOKENS}, f"blank_id {N_TOKENS} is outside"),
        ({"features": MEL}, r"not .*input_features|one float32 input \[batch, n_mels, n_frames\]"),
        ({"mask": True}, "promises an input 'attention_mask'"),
        ({"n_tokens": 20, "blank_id": 99}, "head has .*blank_id 99 is outside"),
    ],
)
def test_graph_that_does_not_fit_manifest_or_vocabulary_is_refused_alike(
    make_bundle: MakeBundle, backend: str, config: dict[str, Any], said: str
) -> None:
    with pytest.raises(BundleSchemaError, match=said) as caught:
        open_with(make_bundle(**config), backend=backend)
    assert_says_got_want_fix(caught.value)


@needs_vectors
def test_other_number_of_mel_bands_is_refused_when_the_bundle_is_loaded(make_bundle: MakeBundle) -> None:
    features = FeatureConfig(kind="log_mel", n_mels=64)
    with pytest.raises(BundleSchemaError, match="80 mel bands, the manifest says 64"):
        open_with(make_bundle(kind="sinks", features=features), backend="kernels")


@pytest.mark.parametrize("kind", ["group norm", "sinks"])
def test_both_backends_compute_the_same_model(make_bundle: MakeBundle, kind: str) -> None:
    if not has_vector_kernels():
        pytest.skip("no vector kernels at this instruction set level")
    name = "input_values" if kind == "group norm" else "input_features"
    features = features_for(name, 16_000 if kind == "group norm" else 150)
    bundle = make_bundle(kind=kind)
    wanted = open_with(bundle, backend="onnxruntime").run(features, None, False)
    for options in ({"backend": "kernels"}, {"compute_type": "bf16"}):
        encoder = open_with(bundle, **options)
        found = encoder.run(features, None, False)
        assert found.dtype == np.float32
        assert np.linalg.norm(found - wanted) < 0.1 * np.linalg.norm(wanted)
        np.testing.assert_array_equal(encoder.run(features, None, True), found)  # over all threads


@pytest.mark.parametrize("backend", BACKENDS)
def test_acoustic_model_is_the_same_whatever_runs_it(make_bundle: MakeBundle, backend: str) -> None:
    options = RuntimeOptions(device="cpu", backend=backend, threads=2)
    acoustic = AcousticModel(make_bundle(kind="sinks", tail_silence_s=0.1), options)
    assert acoustic.device == "cpu"
    waveform = features_for("input_values", 16_000)
    log_probs = acoustic.compute_log_probs(acoustic.compute_features(waveform))
    assert log_probs.shape == (50, N_TOKENS)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, rtol=1e-5)
    cancel = CancelToken()
    cancel.cancel()
    for wide in (False, True):
        with pytest.raises(CancelledError):
            acoustic.compute_log_probs(acoustic.compute_features(waveform), cancel, wide=wide)

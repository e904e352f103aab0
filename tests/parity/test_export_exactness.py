"""Every kind of export multiplies pair-safe weights only, and says so; anything else is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
onnx = pytest.importorskip("onnx")

from engine.bundle.folder import open_bundle  # noqa: E402
from engine.runtime.integer_products import PRODUCTS, check_products  # noqa: E402
from engine.runtime.pair_safe import quantize_stored  # noqa: E402
from export.acoustic import export as acoustic  # noqa: E402
from export.acoustic.conformer import build_conformer  # noqa: E402
from export.acoustic.log_mel import build_log_mel  # noqa: E402
from export.acoustic.pretrained import export_pretrained  # noqa: E402
from export.acoustic.source import ExportOptions  # noqa: E402
from export.acoustic.wav2vec2 import build_wav2vec2  # noqa: E402
from export.errors import ExportError  # noqa: E402
from export.graph.marian import ActivationRange  # noqa: E402
from export.quantization import exactness  # noqa: E402
from export.quantization.quantize import choose  # noqa: E402
from export.translation import marian  # noqa: E402
from tests.parity import test_export_conformer, test_export_log_mel, test_export_wav2vec2  # noqa: E402
from tests.parity.test_export_wav2vec2 import save_checkpoint  # noqa: E402
from tests.reference import tiny_marian  # noqa: E402

pytestmark = pytest.mark.usefixtures("short_cases")

MODELS: dict[str, tuple[Callable[[], Any], Any]] = {
    **{
        kind: (lambda kind=kind: test_export_wav2vec2.make_model(kind), build_wav2vec2)
        for kind in test_export_wav2vec2.KINDS
    },
    **{
        f"log-mel, {name}": (lambda changes=changes: test_export_log_mel.make_model(**changes), build_log_mel)
        for name, changes in test_export_log_mel.VARIANTS.items()
    },
    "conformer": (test_export_conformer.make_model, build_conformer),
}


def build_int8(make: Callable[[], Any], build: Any) -> Any:
    model = make()
    blocks = build(model)[1]
    return build(model, choose(list(blocks)))[0]


@pytest.mark.parametrize("kind", MODELS)
def test_every_integer_product_of_an_acoustic_graph_is_exact_everywhere(kind: str) -> None:
    graph = build_int8(*MODELS[kind])
    found = check_products(graph.SerializeToString())
    assert found.problems == ()
    assert found.n_products == sum(node.op_type in PRODUCTS for node in graph.graph.node) > 5
    assert exactness.prove_exact(graph) == exactness.EVERYWHERE


def test_a_transcriber_without_integer_products_claims_nothing() -> None:
    assert exactness.prove_exact(build_wav2vec2(test_export_wav2vec2.make_model("wav2vec2-base"))[0]) == ""


@pytest.mark.parametrize("by_column", [False, True])
def test_every_integer_product_of_a_translator_is_exact_everywhere(by_column: bool, tmp_path: Path) -> None:
    model = marian._load(tiny_marian.checkpoint())
    spans = {name: ActivationRange(-3.0, 3.0) for name, _ in model.named_modules()}
    written = marian._write(model, tmp_path / "int8", spans, by_column)
    for role in ("mt_encoder", "mt_decoder"):
        found = check_products(written.folder / marian.FILES[role])
        assert found.problems == ()
        assert found.n_products > 5


def test_figures_of_a_translator_say_where_it_is_exact() -> None:
    done = tiny_marian.exported("int8")
    assert done.figures["exact_on"] == exactness.EVERYWHERE
    assert done.config.figures["exact_on"] == exactness.EVERYWHERE


def test_plain_int8_weights_are_refused_by_an_export_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.graph.linear.quantize_columns", quantize_stored)
    monkeypatch.setattr(acoustic, "verify", lambda *_: pytest.fail("compared before it was proved"))
    checkpoint = save_checkpoint(tmp_path / "checkpoint")
    options = ExportOptions(sensitivity=False, batches=False, min_agreement=0.0, allow_slower=True)
    with pytest.raises(
        ExportError, match=r"saturate .*DynamicQuantizeMatMul 'layer_0.*columns are not pair-safe"
    ):
        export_pretrained(str(checkpoint), tmp_path / "bundle", options)
    assert not (tmp_path / "bundle").exists()


def test_manifest_and_card_say_where_a_graph_is_exact(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "checkpoint", "wav2vec2-large-lv60, XLSR-53, XLS-R")
    options = ExportOptions(sensitivity=False, batches=False, min_agreement=0.0, allow_slower=True)
    report = export_pretrained(str(checkpoint), tmp_path / "bundle", options)
    assert report.exact_on == exactness.EVERYWHERE
    config = open_bundle(tmp_path / "bundle").manifest.acoustic
    assert config is not None
    assert config.figures["exact_on"] == exactness.EVERYWHERE
    card = (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    assert f"Integer products are exact on: {exactness.EVERYWHERE}." in card


def test_convolutions_whose_weights_only_our_kernels_multiply_are_pair_safe_in_their_order() -> None:
    from engine.runtime.pair_safe import is_pair_safe

    graph = build_int8(*MODELS["wav2vec2-base"])
    kernels = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in graph.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 3
    ]
    assert len(kernels) == 6
    for codes in kernels:
        assert is_pair_safe(np.ascontiguousarray(codes.transpose(2, 1, 0)).reshape(-1, len(codes))).all()

"""Int8 weights of earlier exports, rounded again: what changes, what must not, and how near the result is."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

pytest.importorskip("torch")
pytest.importorskip("transformers")
onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from engine.bundle.folder import open_bundle  # noqa: E402
from engine.errors import DeviceError  # noqa: E402
from engine.native.encoder import NativeEncoder  # noqa: E402
from engine.runtime.integer_products import check_products  # noqa: E402
from engine.runtime.onnx_session import open_session  # noqa: E402
from engine.runtime.pair_safe import is_pair_safe, quantize_stored  # noqa: E402
from engine.types import RuntimeOptions  # noqa: E402
from export.cli import main  # noqa: E402
from export.layout.describe import add_layout  # noqa: E402
from export.pair_safe import check as pair_safe_check  # noqa: E402
from export.pair_safe.command import make_pair_safe  # noqa: E402
from export.quantization import exactness  # noqa: E402
from export.rewrites.codes import Layout, round_codes  # noqa: E402
from export.rewrites.edit import GraphEdit  # noqa: E402
from export.rewrites.pair_safe import apply_codes, multiplied  # noqa: E402
from tests.reference.plain_bundle import acoustic_graph, write_plain_bundle  # noqa: E402

pytestmark = pytest.mark.usefixtures("short_cases")

MICROSOFT = "com.microsoft"
CPU = RuntimeOptions(device="cpu")
N_IN, N_OUT = 32, 8
RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((N_IN, N_OUT)).astype(np.float32)
WEIGHT[:, 0] = np.arange(N_IN) % 2 * 2 - 1  # neighbours of unlike signs: safe as they are
PLAIN, SCALE = quantize_stored(WEIGHT)


def unpack(codes: NDArray[np.int8], layout: Layout) -> NDArray[np.int8]:
    """[n_matrices, n_in, n_out], written down another way."""
    if layout == "kernel":
        return np.stack([codes[:, :, tap].T for tap in range(codes.shape[2])]).reshape(1, -1, len(codes))
    return codes.T[None] if layout == "turned" else codes.reshape(-1, *codes.shape[-2:])


@given(st.sampled_from(["matrix", "stack", "turned", "kernel"]), st.integers(0, 1 << 32), st.booleans())
@settings(deadline=None, max_examples=100)
def test_only_unsafe_columns_change_and_by_half_a_step_at_most(kind: str, seed: int, loud: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = {"stack": (2, 6, 5), "kernel": (5, 6, 3)}.get(kind, (6, 5))
    layout: Any = "matrix" if kind == "stack" else kind
    codes = (rng.integers(-128, 128, shape) if loud else np.clip(rng.normal(0, 50, shape), -127, 127)).astype(
        np.int8
    )
    found = round_codes(codes, layout)
    assert found.codes.shape == codes.shape and found.codes.dtype == np.int8
    for before, after, factors in zip(
        unpack(codes, layout), unpack(found.codes, layout), found.factors, strict=True
    ):
        safe = is_pair_safe(before)
        assert is_pair_safe(after).all()
        np.testing.assert_array_equal(after[:, safe], before[:, safe])
        np.testing.assert_array_equal(factors == 1, safe)
        assert (np.abs(after * factors.astype(np.float64) - before) <= 0.5001 * factors).all()
    assert found.n_changed == (found.factors != 1).sum()


def make_model(nodes: list[Any], constants: dict[str, NDArray[Any]], n_in: int = N_IN) -> bytes:
    """A graph over x, float32 [m, n_in], with ids int64 [n]; the output is y."""
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", n_in]),
         helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_value_info("y", helper.make_tensor_type_proto(TensorProto.FLOAT, None))],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(MICROSOFT, 1)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return model


def mend(data: bytes) -> bytes:
    """The graph with pair-safe weights."""
    graph = GraphEdit(data)
    found = {name: round_codes(graph.array(name), layout) for name, layout in multiplied(graph).items()}
    apply_codes(graph, {name: change for name, change in found.items() if change.n_changed})
    return graph.serialize()


def run(data: bytes) -> NDArray[np.float32]:
    rng = np.random.default_rng(1)
    feeds = {"x": rng.standard_normal((6, N_IN)).astype(np.float32), "ids": np.array([3, 0, 5])}
    session = open_session(data, CPU, threads=1)
    return session.run({name: feeds[name] for name in session.input_names})[0]


def run_exactly(data: bytes) -> NDArray[np.float32]:
    """What a graph with int8 weights computes where nothing saturates.

    Below VNNI onnxruntime refuses to convert shared layers and LSTMs; there the same weights run as uint8
    with 128 as zero, whose products it computes without saturation.
    """
    try:
        return run(data)
    except DeviceError:
        model = onnx.load_model_from_string(data)
        for tensor in model.graph.initializer:
            if tensor.data_type == TensorProto.INT8:
                codes = numpy_helper.to_array(tensor).astype(np.int16) + 128
                tensor.CopyFrom(numpy_helper.from_array(codes.astype(np.uint8), tensor.name))
        return run(model.SerializeToString())


def constants_of(data: bytes) -> dict[str, bytes]:
    model = onnx.load_model_from_string(data)
    return {tensor.name: tensor.SerializeToString() for tensor in model.graph.initializer}


def assert_mended(before: bytes, changed: set[str]) -> bytes:
    """The result is exact, near, and has only the named constants changed."""
    after = mend(before)
    assert check_products(before).problems and not check_products(after).problems
    expected, found = run_exactly(before), run(after)
    assert 0 < np.linalg.norm(found - expected) < 0.03 * np.linalg.norm(expected)
    old, new = constants_of(before), constants_of(after)
    assert {name for name in old if new.get(name) != old[name]} == changed
    assert mend(after) == after
    return after


DYNAMIC = ["x", "w", "s", "z", "b"]
BIAS = RNG.standard_normal(N_OUT).astype(np.float32)
ZEROS = np.zeros(N_OUT, np.int8)


def product(*inputs: str, name: str = "layer/product", out: str = "y") -> Any:
    return helper.make_node("DynamicQuantizeMatMul", inputs, [out], name=name, domain=MICROSOFT)


def test_a_scale_for_each_column_changes_where_the_codes_do() -> None:
    constants = {"w": PLAIN, "s": SCALE, "z": ZEROS, "b": BIAS}
    after = GraphEdit(assert_mended(make_model([product(*DYNAMIC)], constants), {"w", "s"}))
    safe = is_pair_safe(PLAIN)
    assert safe[0] and not safe.all()
    np.testing.assert_array_equal(after.array("s") == SCALE, safe)
    np.testing.assert_array_equal((after.array("w") == PLAIN).all(axis=0), safe)


def test_a_scale_for_the_tensor_becomes_one_for_each_column() -> None:
    constants = {"w": PLAIN, "s": np.array([0.01], np.float32), "z": np.zeros(1, np.int8), "b": BIAS}
    after = GraphEdit(assert_mended(make_model([product(*DYNAMIC)], constants), {"w", "s", "z"}))
    assert after.array("s").shape == after.array("z").shape == (N_OUT,)
    assert after.array("s")[0] == np.float32(0.01)
    np.testing.assert_array_equal(after.array("w")[:, 0], PLAIN[:, 0])


def test_what_layers_share_stays_for_those_that_are_safe() -> None:
    safe = np.where(np.arange(N_IN)[:, None] % 2, 60, -60).astype(np.int8) * np.ones(N_OUT, np.int8)
    nodes = [
        product("x", "w", "s", "z", name="one", out="a"), product("x", "v", "s", "z", name="two", out="c"),
        helper.make_node("Add", ["a", "c"], ["y"]),
    ]  # fmt: skip
    constants = {"w": PLAIN, "v": safe, "s": SCALE, "z": ZEROS}
    after = GraphEdit(assert_mended(make_model(nodes, constants), {"w"}))
    assert {node.name: list(node.input) for node in after.model.graph.node if node.name} == {
        "one": ["x", "w", "one_input_2", "z"], "two": ["x", "v", "s", "z"],
    }  # fmt: skip


def test_weights_that_two_layers_share_are_rounded_once() -> None:
    nodes = [
        product("x", "w", "s", "z", name="one", out="a"), product("x", "w", "t", "z", name="two", out="c"),
        helper.make_node("Sub", ["a", "c"], ["y"]),
    ]  # fmt: skip
    constants = {"w": PLAIN, "s": SCALE, "t": 3 * SCALE, "z": ZEROS}
    after = GraphEdit(assert_mended(make_model(nodes, constants), {"w", "s", "t"}))
    np.testing.assert_allclose(after.array("t"), 3 * after.array("s"), rtol=1e-6)


def test_a_scale_that_is_stored_as_float16_becomes_float32() -> None:
    nodes = [
        helper.make_node("Cast", ["h"], ["s"], name="cast", to=TensorProto.FLOAT),
        product("x", "w", "s", "z"),
    ]
    constants = {"w": PLAIN, "h": SCALE.astype(np.float16), "z": ZEROS}
    after = onnx.load_model_from_string(assert_mended(make_model(nodes, constants), {"w", "h"}))
    assert [node.op_type for node in after.graph.node] == ["DynamicQuantizeMatMul"]
    assert {tensor.name for tensor in after.graph.initializer} == {"w", "z", "layer/product_input_2"}


@pytest.mark.parametrize("per_tensor", [False, True])
def test_an_lstm_is_rounded_in_both_directions(per_tensor: bool) -> None:
    size = N_OUT // 4
    codes = [RNG.integers(-127, 128, (2, n, N_OUT)).astype(np.int8) for n in (N_IN, size)]
    scale = np.full((2,) if per_tensor else (2, N_OUT), 0.01, np.float32)
    zero = np.zeros(scale.shape, np.int8)
    inputs = ["rows", "w", "r", "", "", "", "", "", "sw", "z", "sr", "z"]
    settings = {"direction": "bidirectional", "hidden_size": size}
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axis"], ["rows"]),
        helper.make_node("DynamicQuantizeLSTM", inputs, ["y"], name="lstm", domain=MICROSOFT, **settings),
    ]
    constants = {"axis": np.array([1]), "w": codes[0], "r": codes[1], "sw": scale, "sr": scale + 0, "z": zero}
    changed = {"w", "r", "sw", "sr"} | ({"z"} if per_tensor else set())
    after = GraphEdit(assert_mended(make_model(nodes, constants), changed))
    assert after.array("sw").shape == (2, N_OUT)


def table_model(by_row: bool) -> bytes:
    """A table whose rows are looked up and, turned, multiplied, as a translator's decoder does."""
    step, zero = np.float32(0.02), np.uint8(128)
    nodes = [helper.make_node("Gather", ["w", "ids"], ["rows"], name="look")]
    if by_row:
        nodes += [
            helper.make_node("Gather", ["scales", "ids"], ["steps"], name="steps"),
            helper.make_node("Cast", ["rows"], ["wide"], name="wide", to=TensorProto.FLOAT),
            helper.make_node("Mul", ["wide", "steps"], ["embedded"], name="embed"),
        ]
    else:
        nodes.append(helper.make_node("DequantizeLinear", ["rows", "big"], ["embedded"], name="embed"))
    nodes += [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["codes"]),
        helper.make_node("Transpose", ["w"], ["t"], name="turn", perm=[1, 0]),
        helper.make_node(
            "MatMulIntegerToFloat",
            ["codes", "t", "step", "s", "zero"],
            ["logits"],
            name="head",
            domain=MICROSOFT,
        ),
        helper.make_node("ReduceL2", ["embedded"], ["total"], keepdims=0),
        helper.make_node("Mul", ["logits", "total"], ["y"]),
    ]
    constants: dict[str, NDArray[Any]] = {
        "w": PLAIN.T, "step": np.array(step), "zero": np.array(zero),
        "s": SCALE if by_row else np.array([0.01], np.float32),
    }  # fmt: skip
    constants |= {"scales": 4 * SCALE[:, None]} if by_row else {"big": np.array([0.04], np.float32)}
    return make_model(nodes, constants)


@pytest.mark.parametrize("by_row", [False, True])
def test_a_table_that_is_looked_up_and_multiplied_keeps_both_right(by_row: bool) -> None:
    before = table_model(by_row)
    after = GraphEdit(assert_mended(before, {"w", "s", "scales" if by_row else "big"}))
    scales = after.array("scales" if by_row else "embed_scales")
    assert scales.shape == (N_OUT, 1)
    np.testing.assert_allclose(scales[:, 0], 4 * after.array("s"), rtol=1e-6)


@pytest.mark.parametrize("kind", ["group norm", "layer norm", "lstm"])
def test_kernels_get_pair_safe_codes_in_the_order_in_which_they_read_them(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[bool] = []
    from engine.native import heads, layers, weights

    def remember(codes: NDArray[np.int8], *rest: Any, **named: Any) -> Any:
        packed.append(bool(is_pair_safe(codes).all()))
        return original(codes, *rest, **named)

    original = layers.pack_int8
    for module in (layers, heads, weights):
        monkeypatch.setattr(module, "pack_int8", remember)
    plain = acoustic_graph(kind)
    NativeEncoder(plain)
    assert not all(packed)
    packed.clear()
    mended = mend(plain)
    NativeEncoder(add_layout(mended, "acoustic"))
    assert packed and all(packed)
    assert exactness.prove_exact(mended) == exactness.EVERYWHERE
    assert mend(mended) == mended


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models decide by a hair."""
    monkeypatch.setattr(pair_safe_check, "MIN_AGREEMENT", 0.5)


def test_a_bundle_is_written_whole_and_says_what_changed(
    tmp_path: Path, lenient: None, capsys: pytest.CaptureFixture[str]
) -> None:
    card = f"# tiny\n\nInteger products are exact on: {exactness.WITH_VNNI}.\n"
    source = write_plain_bundle(tmp_path / "old", "lstm", translator=True, card=card)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    assert main(["pair-safe", str(source), str(tmp_path / "new")]) == 0
    assert "rounded again" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    old, new = open_bundle(source), open_bundle(tmp_path / "new")
    changed = {e.role for e in new.manifest.files if new.read(e.role) != old.read(e.role)}
    assert changed == {"acoustic", "mt_encoder", "mt_decoder", "mt_embeddings"}
    for role in ("acoustic", "mt_encoder", "mt_decoder"):
        assert check_products(new.file(role)).problems == ()
    written = json.loads((tmp_path / "new" / "manifest.json").read_text())
    for entry in written["files"]:
        assert entry["sha256"] == hashlib.sha256((tmp_path / "new" / entry["path"]).read_bytes()).hexdigest()
    figures = written["acoustic"]["figures"]
    assert figures["speedup"] == 2.0 and figures["exact_on"] == exactness.EVERYWHERE
    assert 0 < figures["pair_safe"]["onnxruntime"]["error"] < 0.1
    assert set(written["translation"]["figures"]["pair_safe"]["columns"]) == {"mt_encoder", "mt_decoder"}
    assert (new.manifest.figures, new.manifest.decoding) == (old.manifest.figures, old.manifest.decoding)
    text = (tmp_path / "new" / "README.md").read_text()
    assert text.startswith("# tiny\n") and "## Pair-safe weights" in text and exactness.WITH_VNNI not in text


@pytest.mark.parametrize("by_column", [False, True])
def test_a_translator_alone(tmp_path: Path, lenient: None, by_column: bool) -> None:
    source = write_plain_bundle(tmp_path / "old", None, translator=True, by_column=by_column)
    found = make_pair_safe(source, tmp_path / "new")
    assert found is not None
    assert {row.part for row in found.rows} == {"translation"}
    assert max(row.error for row in found.rows) < 0.1


def test_a_bundle_that_is_pair_safe_is_left_alone(
    tmp_path: Path, lenient: None, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_plain_bundle(tmp_path / "old")
    assert main(["pair-safe", str(source), str(tmp_path / "new")]) == 0
    assert main(["pair-safe", str(tmp_path / "new"), str(tmp_path / "again")]) == 0
    assert "pair-safe already; nothing was written" in capsys.readouterr().out
    assert not (tmp_path / "again").exists()


def test_parts_that_were_not_asked_for_are_copied(tmp_path: Path, lenient: None) -> None:
    source = write_plain_bundle(tmp_path / "old", "lstm", translator=True)
    assert main(["pair-safe", str(source), str(tmp_path / "new"), "--parts", "acoustic"]) == 0
    old, new = open_bundle(source), open_bundle(tmp_path / "new")
    assert {e.role for e in new.manifest.files if new.read(e.role) != old.read(e.role)} == {"acoustic"}
    assert new.manifest.translation == old.manifest.translation
    text = (tmp_path / "new" / "README.md").read_text()
    assert "| mt_encoder |" not in text and "| acoustic |" in text

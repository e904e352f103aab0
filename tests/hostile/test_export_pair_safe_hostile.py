"""Bundles whose weights cannot be rounded again: one clear error, and nothing written."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from engine.bundle import folder as engine_bundle  # noqa: E402
from engine.bundle.folder import open_bundle, write_bundle  # noqa: E402
from engine.errors import BundleError, BundleIntegrityError, BundleNotFoundError  # noqa: E402
from export.cli import main  # noqa: E402
from export.errors import ExportError  # noqa: E402
from export.pair_safe import check as pair_safe_check  # noqa: E402
from export.pair_safe import command as pair_safe  # noqa: E402
from export.pair_safe.command import make_pair_safe, round_bundle  # noqa: E402
from tests.reference.plain_bundle import write_plain_bundle  # noqa: E402

pytestmark = pytest.mark.usefixtures("short_cases")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain_bundle(tmp_path_factory.mktemp("plain") / "bundle", "lstm", translator=True)


def with_graph(plain: Path, folder: Path, role: str, change: Callable[[Any], object]) -> Path:
    """The bundle with one graph changed, and a manifest to go with it."""
    old = open_bundle(plain)
    model = onnx.load_model_from_string(old.read(role))
    found = change(model)
    files = {entry.role: old.file(entry.role) for entry in old.manifest.files}
    files[role] = folder.with_suffix(".onnx")
    files[role].write_bytes(found if isinstance(found, bytes) else model.SerializeToString())
    manifest = old.manifest
    return write_bundle(
        folder, name="changed", licence="CC0", files=files, card="# x", acoustic=manifest.acoustic,
        translation=manifest.translation,
    )  # fmt: skip


def node_of(model: Any, kind: str) -> Any:
    return next(node for node in model.graph.node if node.op_type == kind)


def constant_of(model: Any, name: str) -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def set_zero_point(model: Any) -> None:
    tensor = constant_of(model, node_of(model, "DynamicQuantizeMatMul").input[3])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.int8(3), tensor.name))


def compute_scale(model: Any) -> None:
    node = node_of(model, "DynamicQuantizeMatMul")
    model.graph.node.insert(0, helper.make_node("Exp", [node.input[2]], ["exp"], "exp"))
    node_of(model, "DynamicQuantizeMatMul").input[2] = "exp"


def shorten_scale(model: Any) -> None:
    tensor = constant_of(model, node_of(model, "DynamicQuantizeMatMul").input[2])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:-1], tensor.name))


def drop_scale(model: Any) -> None:
    del node_of(model, "DynamicQuantizeMatMul").input[2:]


def read_codes_otherwise(kind: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        codes = node_of(model, "DynamicQuantizeMatMul").input[1]
        attributes = {"to": TensorProto.FLOAT} if kind == "Cast" else {}
        inputs = [codes, "pieces"] if kind == "Gather" else [codes]
        model.graph.node.append(helper.make_node(kind, inputs, ["more"], "more", **attributes))
        model.graph.node.append(helper.make_node("Relu", ["more"], ["most"], "most"))

    return change


def output_codes(model: Any) -> None:
    codes = node_of(model, "DynamicQuantizeMatMul").input[1]
    model.graph.output.append(helper.make_tensor_value_info(codes, TensorProto.INT8, None))


def use_integer_product(model: Any) -> None:
    node = node_of(model, "DynamicQuantizeMatMul")
    inputs = ["bytes", node.input[1]]
    node.CopyFrom(helper.make_node("MatMulInteger", inputs, list(node.output), "bare"))


def use_unknown_operator(model: Any) -> None:
    node_of(model, "DynamicQuantizeMatMul").op_type = "QGemm"


def compute_weight(model: Any) -> None:
    node = node_of(model, "DynamicQuantizeMatMul")
    model.graph.node.insert(0, helper.make_node("Identity", [node.input[1]], ["same"], "same"))
    node_of(model, "DynamicQuantizeMatMul").input[1] = "same"


def hide_weight(model: Any) -> None:
    tensor = constant_of(model, node_of(model, "DynamicQuantizeMatMul").input[1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../secret"), ("offset", "0"), ("length", str(len(tensor.raw_data)))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    tensor.ClearField("raw_data")


ACOUSTIC: dict[str, tuple[Callable[[Any], Any], str]] = {
    "zero point": (set_zero_point, "weights with a zero point"),
    "computed scale": (compute_scale, "a scale that the graph computes"),
    "short scale": (shorten_scale, "a scale of shape"),
    "no scale": (drop_scale, "a scale that the graph computes"),
    "second cast": (read_codes_otherwise("Cast"), "Relu 'most' reads it in a way that is not known"),
    "look-up": (read_codes_otherwise("Gather"), "Gather 'more' reads it in a way that is not known"),
    "other reader": (read_codes_otherwise("Abs"), "an operator that is not checked"),
    "output": (output_codes, "is an output of the graph"),
    "scale elsewhere": (use_integer_product, "MatMulInteger 'bare' reads it in a way that is not known"),
    "unknown operator": (use_unknown_operator, "QGemm .*an operator that is not checked"),
    "computed weight": (compute_weight, "weights that the graph computes"),
    "data elsewhere": (hide_weight, "lies in another folder"),
    "no graph": (lambda model: b"no graph", "the graph cannot be read"),
    "empty": (lambda model: b"", "the graph cannot be read"),
    "cut off": (lambda model: model.SerializeToString()[:-1000], "the graph cannot be read"),
}


@pytest.mark.parametrize("case", ACOUSTIC)
def test_a_graph_that_cannot_be_rounded_again_is_refused(plain: Path, tmp_path: Path, case: str) -> None:
    change, message = ACOUSTIC[case]
    source = with_graph(plain, tmp_path / "changed", "acoustic", change)
    with pytest.raises(ExportError, match=f"{message}.*fix: ") as caught:
        make_pair_safe(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def move_table(key: str, value: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == key:
                    entry.value = value

    return change


@pytest.mark.parametrize(
    ("key", "value"), [("location", "vocab.json"), ("location", "x.bin"), ("offset", "99"), ("length", "-1")]
)
def test_tables_that_lie_elsewhere_are_refused(plain: Path, tmp_path: Path, key: str, value: str) -> None:
    source = with_graph(plain, tmp_path / "changed", "mt_decoder", move_table(key, value))
    with pytest.raises(ExportError, match="fix: "):
        make_pair_safe(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tables_that_overlap_are_refused(plain: Path, tmp_path: Path) -> None:
    def see_twice(model: Any) -> None:
        table = next(tensor for tensor in model.graph.initializer if tensor.external_data)
        other = model.graph.initializer.add()
        other.CopyFrom(table)
        other.name, other.dims[0] = "half", table.dims[0] // 2
        entry = next(entry for entry in other.external_data if entry.key == "length")
        entry.value = str(int(entry.value) // 2)
        model.graph.node.append(helper.make_node("Gather", ["half", "input_ids"], ["h"], "h"))

    source = with_graph(plain, tmp_path / "changed", "mt_encoder", see_twice)
    with pytest.raises(ExportError, match=r"'half' overlaps another table.*fix: "):
        make_pair_safe(source, tmp_path / "out")


def test_all_graphs_that_are_in_the_way_come_in_one_error(plain: Path, tmp_path: Path) -> None:
    first = with_graph(plain, tmp_path / "one", "acoustic", use_unknown_operator)
    both = with_graph(first, tmp_path / "two", "mt_encoder", lambda model: b"no graph")
    with pytest.raises(ExportError, match=r"acoustic: QGemm.*mt_encoder: the graph cannot be read"):
        make_pair_safe(both, tmp_path / "out")


def to_float(model: Any) -> None:
    """The same graph without integer products."""
    keep = helper.make_node("Relu", [model.graph.input[0].name], [model.graph.output[0].name], "relu")
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.append(keep)


def test_a_bundle_that_is_not_int8_is_refused(plain: Path, tmp_path: Path) -> None:
    old = open_bundle(plain)
    model = onnx.load_model_from_string(old.read("acoustic"))
    to_float(model)
    (tmp_path / "graph.onnx").write_bytes(model.SerializeToString())
    files = {"acoustic": tmp_path / "graph.onnx", "vocabulary": old.file("vocabulary")}
    source = write_bundle(
        tmp_path / "fp32", name="fp32", licence="CC0", files=files, card="", acoustic=old.manifest.acoustic
    )
    with pytest.raises(
        ExportError, match=r"no graph of acoustic or translation multiplies integers.*fix: .*--precision int8"
    ):
        make_pair_safe(source, tmp_path / "out")


def test_what_is_no_bundle_or_a_damaged_one_is_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleNotFoundError):
        make_pair_safe(tmp_path / "missing", tmp_path / "out")
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(ExportError, match="a bare graph"):
        make_pair_safe(tmp_path / "model.onnx", tmp_path / "out")
    damaged = Path(shutil.copytree(plain, tmp_path / "damaged"))
    content = bytearray((damaged / "acoustic.onnx").read_bytes())
    content[5000] ^= 1
    (damaged / "acoustic.onnx").write_bytes(content)
    with pytest.raises(BundleIntegrityError):
        make_pair_safe(damaged, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_occupied_folder_is_refused_before_the_work(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip.wav").write_bytes(b"precious")
    monkeypatch.setattr(pair_safe, "round_bundle", lambda *_: pytest.fail("the work began"))
    with pytest.raises(BundleError, match=r"is not a bundle \('clip\.wav'\)"):
        make_pair_safe(plain, tmp_path)
    assert (tmp_path / "clip.wav").read_bytes() == b"precious"


def test_a_result_that_is_too_far_from_the_original_is_refused(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pair_safe_check, "MAX_ERROR", 1e-6)
    assert main(["pair-safe", str(plain), str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith(
        "engine-export: rounding the weights again changes too much: acoustic, onnxruntime"
    )
    assert not (tmp_path / "out").exists()


def test_a_full_disk_or_an_interruption_leaves_nothing(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bundles").mkdir()
    out = tmp_path / "bundles" / "new"
    monkeypatch.setattr(
        pair_safe, "compare_bundles", lambda old, new, columns: pair_safe_check.Comparison(columns, ())
    )

    def no_space(source: Any, target: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine_bundle.shutil, "copyfile", no_space)
        with pytest.raises(ExportError, match=r"could not be written .*No space left.*free space"):
            make_pair_safe(plain, out)
    with monkeypatch.context() as patch:
        patch.setattr(engine_bundle, "_swap", interrupt)
        assert main(["pair-safe", str(plain), str(out)]) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert list(out.parent.iterdir()) == []


def test_a_table_that_both_graphs_read_changes_in_both(plain: Path) -> None:
    rounded = round_bundle(open_bundle(plain))
    assert {"mt_encoder", "mt_decoder", "mt_embeddings"} <= set(rounded.files)
    assert len(rounded.files["mt_embeddings"]) == len(open_bundle(plain).read("mt_embeddings"))

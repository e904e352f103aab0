"""Bundles of earlier exports: what runs them, what says so, and how they get their layout tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.kernels.vector.levels import has_vector_kernels

if not has_vector_kernels():
    pytest.skip("no vector kernels at this instruction set level", allow_module_level=True)
for package in ("torch", "transformers", "onnx"):
    pytest.importorskip(package)

import onnx  # noqa: E402

from engine.acoustic.encoders import open_encoder  # noqa: E402
from engine.bundle.folder import Bundle, open_bundle, write_bundle  # noqa: E402
from engine.bundle.layout import FIX  # noqa: E402
from engine.cli.info import describe_bundle  # noqa: E402
from engine.errors import DeviceError, OptionError  # noqa: E402
from engine.runtime import backend  # noqa: E402
from engine.translation.runners import open_runner  # noqa: E402
from engine.two_pass.runners import open_decoder  # noqa: E402
from engine.types import RuntimeOptions  # noqa: E402
from export.cli import main  # noqa: E402
from export.layout.describe import FAMILIES, add_layout  # noqa: E402
from tests.reference import tiny_marian, tiny_two_pass  # noqa: E402
from tests.reference.layouts import sealed, table_of, with_table, without_table  # noqa: E402

pytestmark = pytest.mark.levels
WIDE = {"d_model": 64, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "init_std": 0.1}
MODELS = {
    "acoustic": lambda bundle, options: open_encoder(bundle, bundle.manifest.acoustic, options),
    "second_pass": lambda bundle, options: open_decoder(bundle, bundle.manifest.second_pass, options),
    "translation": lambda bundle, options: open_runner(bundle, bundle.manifest.translation, options),
}


def whole_bundle(folder: Path, **changes: Any) -> Path:
    """A tiny recogniser of two passes with a translator; changes: role to what becomes of its bytes."""
    speech = open_bundle(tiny_two_pass.bundle_folder())
    text = open_bundle(tiny_marian.bundle_folder("int8", activation="relu", **WIDE))
    parts = folder.with_name(f"{folder.name}-parts")
    parts.mkdir()
    files = {}
    for bundle in (speech, text):
        for entry in bundle.manifest.files:
            files[entry.role] = parts / entry.path
            files[entry.role].write_bytes(changes.get(entry.role, bytes)(bundle.read(entry.role)))
    return write_bundle(
        folder,
        name="whole",
        licence="CC0",
        files=files,
        card="# whole\n\nA card: ä.\n",
        acoustic=speech.manifest.acoustic,
        second_pass=speech.manifest.second_pass,
        translation=text.manifest.translation,
        figures={"WER": 1},
    )


def earlier_bundle(folder: Path) -> Path:
    return whole_bundle(folder, **dict.fromkeys(FAMILIES, without_table))


def open_all(bundle: Bundle, **options: Any) -> list[Any]:
    settings = RuntimeOptions(**{"device": "cpu", "threads": 1, **options})
    return [opener(bundle, settings) for opener in MODELS.values()]


def test_a_bundle_of_an_earlier_export_gets_its_tables_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = earlier_bundle(tmp_path / "old"), tmp_path / "new"
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    assert main(["layout", str(source), str(out)]) == 0
    said = capsys.readouterr().out
    for role in FAMILIES:
        assert f"{role}: described" in said
    assert said.count("kernels against onnxruntime") == 3
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    old, new, fresh = open_bundle(source), open_bundle(out), open_bundle(whole_bundle(tmp_path / "fresh"))
    for entry in new.manifest.files:
        assert new.read(entry.role) == fresh.read(entry.role)
        if entry.role in FAMILIES:
            assert new.read(entry.role).startswith(old.read(entry.role))
    for field in ("name", "licence", "acoustic", "decoding", "second_pass", "translation", "figures"):
        assert getattr(new.manifest, field) == getattr(old.manifest, field)
    assert (out / "README.md").read_bytes() == (source / "README.md").read_bytes()
    assert {model.backend for model in open_all(new)} == {"kernels"}
    assert main(["layout", str(out), str(tmp_path / "again")]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert not (tmp_path / "again").exists()


def test_a_bundle_gets_its_tables_in_its_own_place(tmp_path: Path) -> None:
    source = earlier_bundle(tmp_path / "old")
    assert main(["layout", str(source), str(source)]) == 0
    assert {model.backend for model in open_all(open_bundle(source))} == {"kernels"}


def test_without_tables_onnxruntime_runs_everything_and_info_says_why(tmp_path: Path) -> None:
    bundle = open_bundle(earlier_bundle(tmp_path / "old"))
    opened = open_all(bundle)
    assert {model.backend for model in opened} == {"onnxruntime"}
    assert {model.choice.why for model in opened} == {f"the graph has no layout table; {FIX}"}
    said = describe_bundle(bundle)
    for name in ("acoustic  by", "2nd pass  by", "mt        by"):
        assert f"{name} onnxruntime, int8: the graph has no layout table; run `engine-export layout" in said


def test_info_names_level_backend_arithmetic_and_reason_of_each_model(tmp_path: Path) -> None:
    said = describe_bundle(open_bundle(whole_bundle(tmp_path / "new")))
    level = backend.active().name
    for name in ("acoustic  by", "2nd pass  by", "mt        by"):
        assert f"{name} kernels, level {level}, int8: our own kernels compute such graphs" in said


def error_of(bundle: Bundle, model: str, **options: Any) -> DeviceError:
    with pytest.raises(DeviceError) as caught:
        MODELS[model](bundle, RuntimeOptions(**{"device": "cpu", **options}))
    assert caught.value.got and caught.value.want and caught.value.fix
    return caught.value


def test_a_wish_for_the_kernels_is_refused_alike_everywhere(tmp_path: Path) -> None:
    bundle = open_bundle(earlier_bundle(tmp_path / "old"))
    told = {str(error_of(bundle, model, backend="kernels")) for model in MODELS}
    assert len(told) == 1
    assert "no layout table" in told.pop()
    told = {str(error_of(bundle, model, backend="kernels", device="cuda")) for model in MODELS}
    assert len(told) == 1
    for model in MODELS:
        assert error_of(bundle, model, backend="kernels").fix == FIX
        with pytest.raises(OptionError, match="'tensorrt'"):
            MODELS[model](bundle, RuntimeOptions(device="cpu", backend="tensorrt"))  # type: ignore[arg-type]


def test_a_later_revision_or_a_damaged_table_is_left_to_onnxruntime(tmp_path: Path) -> None:
    def later(data: bytes) -> bytes:
        return with_table(data, {"revision": 99, "whatever": 1})

    def damaged(data: bytes) -> bytes:
        return with_table(data, "{")

    def wrong(data: bytes) -> bytes:
        table = table_of(data)
        table["model"]["head"]["weight"] = "none such"
        files = {"mt_embeddings.bin": text.read("mt_embeddings")}
        return sealed(data, table, files)

    text = open_bundle(tiny_marian.bundle_folder("int8", activation="relu", **WIDE))
    changes = {"acoustic": later, "asr_memory": damaged, "mt_decoder": wrong}
    bundle = open_bundle(whole_bundle(tmp_path / "b", **changes))
    opened = open_all(bundle)
    assert [model.backend for model in opened] == ["onnxruntime"] * 3
    reasons = ["revision 99", "cannot be read", "no constant 'none such'"]
    for model, reason, name in zip(opened, reasons, MODELS, strict=True):
        assert reason in model.choice.why
        assert reason in str(error_of(bundle, name, backend="kernels"))


def with_exchanged_layers(data: bytes) -> bytes:
    """Nodes whose names say layer_0 in layer_1 and the other way round: a description of another model."""
    model = onnx.load_model_from_string(without_table(data))
    for node in model.graph.node:
        for old, new in (("layer_0/", "layer_x/"), ("layer_1/", "layer_0/"), ("layer_x/", "layer_1/")):
            node.name = node.name.replace(old, new)
    written: bytes = model.SerializeToString()
    return written


def with_turned_sign(data: bytes) -> bytes:
    """A graph that gives -y for y, by an operator that the description does not look at."""
    model = onnx.load_model_from_string(without_table(data))
    last = next(node for node in model.graph.node if node.output[0] in ("logits", "log_probs"))
    last.op_type = "Neg"
    written: bytes = model.SerializeToString()
    return written


def test_layers_in_another_order_than_their_names_say_are_for_onnxruntime() -> None:
    bundle = open_bundle(tiny_two_pass.bundle_folder())
    files = {"asr_embeddings.bin": bundle.read("asr_embeddings")}
    for role in ("acoustic", "asr_decoder", "asr_memory"):
        exchanged = with_exchanged_layers(bundle.read(role))
        model = table_of(add_layout(exchanged, role, files))["model"]
        assert model["kind"] == "other" and "another order" in model["why"]


def test_a_graph_that_would_be_another_model_by_its_table_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {"acoustic": "acoustic", "asr_decoder": "second pass", "mt_decoder": "translation"}
    for role, part in parts.items():
        source = whole_bundle(tmp_path / role, **{role: with_turned_sign})
        assert main(["layout", str(source), str(tmp_path / "new")]) == 1
        assert f"{part}: kernels against onnxruntime" in capsys.readouterr().err
        assert not (tmp_path / "new").exists()


def test_what_is_no_bundle_with_graphs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = open_bundle(whole_bundle(tmp_path / "b"))
    assert main(["layout", str(bundle.file("acoustic")), str(tmp_path / "new")]) == 1
    assert "a bare graph" in capsys.readouterr().err
    files = {"vocabulary": bundle.file("vocabulary")}
    folder = write_bundle(tmp_path / "none", name="none", licence="CC0", files=files, card="")
    assert main(["layout", str(folder), str(tmp_path / "new")]) == 1
    assert "no graph for the kernels" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_table_is_written_for_graphs_that_were_only_built_for_onnxruntime(tmp_path: Path) -> None:
    bundle = open_bundle(whole_bundle(tmp_path / "b"))
    as_another = add_layout(bundle.read("acoustic"), "mt_encoder")
    assert table_of(as_another)["model"]["kind"] == "other"
    config = msgspec.structs.replace(bundle.manifest.acoustic, precision="int8")
    parts = {"acoustic": tmp_path / "g.onnx", "vocabulary": bundle.file("vocabulary")}
    parts["acoustic"].write_bytes(as_another)
    folder = write_bundle(tmp_path / "c", name="c", licence="CC0", files=parts, card="", acoustic=config)
    opened = MODELS["acoustic"](open_bundle(folder), RuntimeOptions(device="cpu"))
    assert opened.backend == "onnxruntime"
    assert "the kernels do not compute this graph" in opened.choice.why

"""Export writes the layout table and native computes from it: they agree for every family.

A table that does not fit its graph is one typed error, never a crash and never another result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from engine.kernels.vector.levels import has_vector_kernels

if not has_vector_kernels():
    pytest.skip("no vector kernels at this instruction set level", allow_module_level=True)
for package in ("torch", "transformers", "onnx"):
    pytest.importorskip(package)

import onnx  # noqa: E402
from onnx import numpy_helper  # noqa: E402

from engine.bundle.folder import open_bundle  # noqa: E402
from engine.bundle.layout import KEY, REVISION, encode_layout, read_layout  # noqa: E402
from engine.errors import LayoutError, UnsupportedBlockError  # noqa: E402
from engine.native.encoder import NativeEncoder  # noqa: E402
from engine.native.marian import MarianKernels  # noqa: E402
from engine.native.two_pass import TwoPassKernels  # noqa: E402
from engine.runtime.onnx_file import read_graph, with_metadata  # noqa: E402
from export.layout.describe import add_layout, describe, ensure_layout  # noqa: E402
from tests.reference import tiny_encoders, tiny_marian, tiny_two_pass  # noqa: E402
from tests.reference.layouts import Json, Path, changed, leaves, sealed, table_of, with_table, without_table  # noqa: E402
from tests.unit.test_encoders import without_names  # noqa: E402

pytestmark = pytest.mark.levels
WIDE = {"d_model": 64, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "init_std": 0.1}
N_FRAMES, N_SAMPLES = 33, 6000


@dataclass(frozen=True)
class Family:
    """A graph, and how the kernels open and run it.

    Attributes:
        files: those that its tensors may lie in. run: opens the graph, and gives some of its outputs.
    """

    role: str
    data: bytes
    files: Mapping[str, bytes]
    run: Callable[[bytes], np.ndarray]


def encoder(kind: str, precision: str) -> Family:
    mel = kind in tiny_encoders.LOG_MEL
    make = tiny_encoders.log_mel_encoder if mel else tiny_encoders.waveform_encoder
    name, n = ("input_features", N_FRAMES) if mel else ("input_values", N_SAMPLES)
    features = tiny_encoders.features_for(name, n)
    graph = make(kind, smallest=True).graphs[precision]
    return Family("acoustic", graph, {}, lambda data: NativeEncoder(data, precision == "int8").run(features))


def second_pass(role: str) -> Family:
    bundle = open_bundle(tiny_two_pass.bundle_folder())
    config = bundle.manifest.second_pass
    assert config is not None
    files = {bundle.file("asr_embeddings").name: bundle.read("asr_embeddings")}

    def run(data: bytes) -> np.ndarray:
        graphs = [data if each == role else bundle.read(each) for each in ("asr_memory", "asr_decoder")]
        steps = TwoPassKernels(graphs[0], graphs[1], files, config).start(
            tiny_two_pass.make_states(20), 2, 12
        )
        steps.prefill(np.array(tiny_two_pass.PROMPT))
        return steps.step(np.array([7, 8]), np.zeros(2, np.int64)).copy()

    return Family(role, bundle.read(role), files, run)


def translator(role: str, activation: str = "relu") -> Family:
    bundle = open_bundle(tiny_marian.bundle_folder("int8", activation=activation, **WIDE))
    config = bundle.manifest.translation
    assert config is not None
    files = {bundle.file("mt_embeddings").name: bundle.read("mt_embeddings")}

    def run(data: bytes) -> np.ndarray:
        graphs = [data if each == role else bundle.read(each) for each in ("mt_encoder", "mt_decoder")]
        model = MarianKernels(graphs[0], graphs[1], files, config)
        memory = model.encode([[5, 6, 7, 0]])
        found = model.start(memory, 1, 4).step(np.array([3]), np.zeros(1, np.int64), np.zeros(1, np.int64), 0)
        return found[:, : config.vocab_size].copy()

    return Family(role, bundle.read(role), files, run)


FAMILIES: dict[str, Callable[[], Family]] = {
    "group norm": lambda: encoder("group norm", "int8"),
    "group norm fp32": lambda: encoder("group norm", "fp32"),
    "stable layer norm": lambda: encoder("stable layer norm", "int8"),
    "taps of 128": lambda: encoder("taps of 128", "int8"),
    "lstm": lambda: encoder("lstm", "int8"),
    "lstm fp32": lambda: encoder("lstm", "fp32"),
    "sinks": lambda: encoder("sinks", "int8"),
    "memory": lambda: second_pass("asr_memory"),
    "decoder": lambda: second_pass("asr_decoder"),
    "marian encoder": lambda: translator("mt_encoder"),
    "marian decoder": lambda: translator("mt_decoder"),
    "marian encoder, swish": lambda: translator("mt_encoder", "swish"),
}
# One of each kind of model and of each kind of storage, for what is tried in many ways.
VARIED = ("group norm", "stable layer norm", "sinks", "memory", "decoder", "marian encoder", "marian decoder")


@functools.cache
def family(name: str) -> Family:
    return FAMILIES[name]()


@functools.cache
def wanted(name: str) -> np.ndarray:
    return family(name).run(family(name).data)


def refused(name: str, data: bytes, said: str | None = None) -> LayoutError:
    with pytest.raises(LayoutError, match=said) as caught:
        family(name).run(data)
    assert caught.value.got and caught.value.want and caught.value.fix
    return caught.value


@pytest.mark.parametrize("name", FAMILIES)
def test_every_constant_is_in_a_block_or_known_to_be_unused(name: str) -> None:
    one = family(name)
    graph, table = read_graph(one.data, one.files), table_of(one.data)
    named = {value for _, value in leaves(table["model"]) if isinstance(value, str)} & graph.constants.keys()
    assert named | set(table["unused"]) == set(graph.constants)
    assert not named & set(table["unused"])
    assert all(graph.constants[constant].size <= 64 for constant in table["unused"])
    assert table["revision"] == REVISION and table["model"]["kind"] != "other"
    assert np.isfinite(wanted(name)).any() and np.ptp(wanted(name)[np.isfinite(wanted(name))]) > 0


@pytest.mark.parametrize("name", VARIED)
def test_native_looks_at_no_node(name: str) -> None:
    one = family(name)
    nameless = without_names(one.data)
    refused(name, nameless, "table of another graph")
    layout = read_layout(read_graph(one.data, one.files))
    resealed = with_metadata(nameless, KEY, encode_layout(layout, read_graph(nameless, one.files)))
    np.testing.assert_array_equal(one.run(resealed), wanted(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_graph_of_an_earlier_export_gets_the_same_table_and_keeps_every_other_byte(name: str) -> None:
    one = family(name)
    earlier = without_table(one.data)
    refused(name, earlier, "no layout table")
    assert KEY.encode() not in earlier
    again = add_layout(earlier, one.role, one.files)
    assert again.startswith(earlier) and table_of(again) == table_of(one.data)
    assert add_layout(again, one.role, one.files) == again
    assert ensure_layout(one.data, one.role, one.files) is one.data
    np.testing.assert_array_equal(one.run(again), wanted(name))


def replaced(table: Json, key: str, value: Any) -> Json:
    return {**table, key: value}


BROKEN: dict[str, tuple[Callable[[Json], Json | str], str]] = {
    "not JSON": (lambda table: "{not JSON", "cannot be read"),
    "empty": (lambda table: "", "cannot be read"),
    "no object": (lambda table: "[1, 2]", "cannot be read"),
    "nested without end": (lambda table: "[" * 100_000, "cannot be read"),
    "earlier revision": (lambda table: replaced(table, "revision", 0), "revision 0"),
    "later revision": (lambda table: {"revision": REVISION + 1, "other": []}, f"revision {REVISION + 1}"),
    "revision that is no number": (lambda table: replaced(table, "revision", "one"), "cannot be read"),
    "no revision": (lambda table: {"model": table["model"]}, "cannot be read"),
    "no digest": (lambda table: changed(table, ("digest",), None), "cannot be read"),
    "another digest": (lambda table: replaced(table, "digest", "0" * 64), "of another graph"),
    "unknown field": (lambda table: replaced(table, "more", 1), "cannot be read"),
    "unused that is absent": (lambda table: replaced(table, "unused", ["none such"]), "names 'none such'"),
    "fewer unused": (lambda table: replaced(table, "unused", table["unused"][1:]), "of another graph"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_table_that_is_none_is_refused(case: str) -> None:
    change, said = BROKEN[case]
    for name in ("sinks", "decoder", "marian encoder"):
        refused(name, with_table(family(name).data, change(table_of(family(name).data))), said)


@pytest.mark.parametrize("name", VARIED)
def test_no_table_of_another_model_is_taken(name: str) -> None:
    for other in VARIED:
        if family(other).role != family(name).role:
            table = table_of(family(other).data)
            refused(name, with_table(family(name).data, table))
            refused(name, sealed(family(name).data, {**table, "unused": []}, family(name).files))


def other_values(value: Any, names: list[str]) -> list[Any]:
    """What a field of a table might hold by mistake; names: other constants. None: nothing."""
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int | float):
        return [value + 1, 2 * value, 0, 1 << 40, None]
    return [None, "none such", *names]


def mutations(name: str) -> list[tuple[Path, Any, Json]]:
    """Where a table is changed, to what, and the changed table; constants that several blocks share stay."""
    table, constants = table_of(family(name).data), read_names(name)
    rng = np.random.default_rng(0)
    named = [value for _, value in leaves(table["model"]) if value in constants]
    found = []
    for path, value in leaves(table["model"]):
        if named.count(value) > 1:
            continue
        others = [named[i] for i in rng.integers(len(named), size=2)] if value in named else []
        for other in other_values(value, others):
            if other != value or type(other) is not type(value):
                found.append((path, other, changed(table, ("model", *path), other)))
    return found


def read_names(name: str) -> set[str]:
    return set(read_graph(family(name).data, family(name).files).constants)


@pytest.mark.parametrize("name", VARIED)
def test_a_table_that_was_changed_afterwards_is_never_believed(name: str) -> None:
    for path, other, table in mutations(name)[::7]:
        try:
            refused(name, with_table(family(name).data, table))
        except pytest.fail.Exception:
            pytest.fail(f"{path} = {other!r}")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # an epsilon of another size
@pytest.mark.parametrize("name", VARIED)
def test_a_sealed_table_with_a_wrong_name_or_size_is_refused_or_computes_within_bounds(name: str) -> None:
    """As an exporter with an error would write it: every name and every size of a weight must fit."""
    one, harmless = family(name), []
    for path, other, table in mutations(name)[::3]:
        try:
            one.run(sealed(one.data, table, one.files))
            harmless.append((path, other))
        except LayoutError as error:
            assert error.got and error.want and error.fix, (path, other)
    # What no shape shows: how wide a stride is, how many heads there are, constants of a formula.
    free = {"n_heads", "stride", "epsilon", "raised", "norm_first", "integer", "activation", "gives_states"}
    assert [entry for entry in harmless if entry[0][-1] not in free] == []


@pytest.mark.parametrize("name", VARIED)
def test_a_missing_weight_and_an_extra_constant_are_refused(name: str) -> None:
    one = family(name)
    table = table_of(one.data)
    names = [value for _, value in leaves(table["model"]) if value in read_names(name)]
    for lost in names[:: max(1, len(names) // 8)]:
        model = onnx.load_model_from_string(one.data)
        kept = [tensor for tensor in model.graph.initializer if tensor.name != lost]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        refused(name, model.SerializeToString(), "no constant|axes of|zero point")
    for size in (1, 64, 65, 5000):
        model = onnx.load_model_from_string(one.data)
        extra = numpy_helper.from_array(np.ones(size, np.float32), "extra")
        model.graph.initializer.append(extra)
        data = model.SerializeToString()
        refused(name, data, "no block of the table has .'extra'")
        if size > 64:
            more = {**table, "unused": [*table["unused"], "extra"]}
            refused(name, sealed(data, more, one.files), "no block of the table has .'extra'")


@pytest.mark.parametrize("name", VARIED)
def test_other_nodes_or_other_small_constants_are_another_graph(name: str) -> None:
    one = family(name)
    model = onnx.load_model_from_string(one.data)
    small = {tensor.name: tensor for tensor in model.graph.initializer}
    unused = [small[key] for key in table_of(one.data)["unused"]]
    tensor = next(tensor for tensor in unused if numpy_helper.to_array(tensor).any())
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, tensor.name))
    refused(name, model.SerializeToString(), "of another graph")
    model = onnx.load_model_from_string(one.data)
    model.graph.node.add(op_type="Identity", input=[model.graph.input[0].name], output=["copy"])
    refused(name, model.SerializeToString(), "of another graph")


@pytest.mark.parametrize("kind", tiny_encoders.BEYOND_THE_KERNELS)
def test_what_the_kernels_do_not_compute_is_said_with_its_reason(kind: str) -> None:
    data = tiny_encoders.log_mel_encoder(kind).graphs["int8"]
    with pytest.raises(UnsupportedBlockError) as caught:
        NativeEncoder(data)
    assert caught.value.got and caught.value.want and "onnxruntime" in caught.value.fix
    layout = describe(read_graph(data), "acoustic")
    assert layout == read_layout(read_graph(data))


def test_a_conformer_is_for_onnxruntime_and_its_table_says_so() -> None:
    from export.acoustic.conformer import build_conformer
    from export.layout.describe import describe_model
    from training.asr.conformer import ConformerConfig, ConformerCtc

    config = ConformerConfig(hidden_size=32, n_layers=1, n_heads=2, intermediate_size=64, conv_width=7)
    graph = build_conformer(ConformerCtc(config).eval())[0]
    with pytest.raises(UnsupportedBlockError, match="a Conformer"):
        NativeEncoder(describe_model(graph, "acoustic"))

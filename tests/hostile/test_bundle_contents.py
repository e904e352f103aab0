"""Bundles whose hashes are right and whose contents are not: each fault that mutated bundles have shown."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.bundle.folder import Bundle, open_bundle
from engine.bundle.schema import TranslationConfig
from engine.cli import main
from engine.errors import BundleIntegrityError, BundleSchemaError, EngineError, ModelError
from engine.pipeline import load
from engine.runtime.cancel import CancelToken
from engine.runtime.onnx_file import external_files
from engine.runtime.protobuf import write_field
from engine.translation.search import EncoderDecoder
from engine.translation.tokenizer import Tokenizer
from engine.translation.tokenizer_file import check_model
from tests.fuzz.bundle_files import MANIFEST, Files, read_seeds, seal
from tests.fuzz.mutate import split_message, write_message

SEEDS = read_seeds()
CLIP = (0.1 * np.random.default_rng(0).normal(size=12_000)).astype(np.float32)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """A seed's folder with some files changed and the manifest's hashes right."""

    def write(name: str = "mel", **changed: bytes) -> Path:
        files: Files = {file.replace("__", "."): content for file, content in changed.items()}
        if MANIFEST in SEEDS[name]:
            files[MANIFEST] = seal(files.get(MANIFEST, SEEDS[name][MANIFEST]), files)
        for file, content in {**SEEDS[name], **files}.items():
            (tmp_path / file).write_bytes(content)
        return tmp_path

    return write


def manifest_with(section: str, field: str, value: Any) -> bytes:
    content = json.loads(SEEDS["mel"][MANIFEST])
    place = content["acoustic"]["features"] if section == "features" else content[section]
    assert field in place
    place[field] = value
    return json.dumps(content).encode()


def test_the_undamaged_bundles_have_every_role_and_work(make: Callable[..., Path]) -> None:
    model = load(make(), threads=1)
    assert len(model.bundle.manifest.files) == 15
    assert model.transcribe(CLIP, 16_000).duration_s == 0.75
    assert isinstance(model.translate_text(["Der Hund."])[0], str)


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("acoustic", "max_window_s", 1e308), ("acoustic", "max_window_s", 1e-300),
        ("acoustic", "tail_silence_s", 1e300), ("acoustic", "samples_per_frame", 10**9),
        ("acoustic", "samples_per_frame", 30_000), ("features", "sample_rate", 2**62),
        ("features", "sample_rate", 1), ("features", "hop_length", 2**40), ("features", "n_mels", 10**8),
        ("decoding", "beam_width", 10**9), ("decoding", "lm_alpha", 1e300),
        ("decoding", "token_min_logp", 3.0), ("second_pass", "n_layers", 10**9), ("second_pass",
        "end_weight", -0.5),
        ("second_pass", "letter_share", 2.0), ("second_pass", "max_tokens", 2**40),
        ("second_pass", "prompt", [1] * 5000), ("translation", "n_heads", 2**31),
        ("translation", "max_target_tokens", 10**12), ("translation", "length_penalty", 1e300),
        ("translation", "beam_size", 10**6), ("translation", "beam_size", 0),
    ],
)  # fmt: skip
def test_a_value_that_no_model_has_is_refused(
    make: Callable[..., Path], section: str, field: str, value: Any
) -> None:
    folder = make(manifest__json=manifest_with(section, field, value))
    with pytest.raises(BundleSchemaError) as caught:
        load(folder, threads=1).translator  # noqa: B018
    assert caught.value.got and caught.value.want and caught.value.fix


@pytest.mark.parametrize(
    ("field", "value"),
    [("vocab_size", 239), ("eos_id", 240), ("pad_id", 10**5), ("decoder_start_id", 999_999)],
)
def test_a_translator_that_does_not_fit_its_tokenizer_is_refused(
    make: Callable[..., Path], field: str, value: int
) -> None:
    model = load(make(manifest__json=manifest_with("translation", field, value)), threads=1)
    with pytest.raises(BundleSchemaError, match="tokens"):
        model.translate_text(["Der Hund."])


@pytest.mark.parametrize("name", ["manifest.json", "vocab.json", "asr_tokens.json", "mt_vocabulary.json"])
@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a": ' * 50_000, b'"\\ud800"', b"1e400", b"\xff", b"{}"]
)
def test_json_of_any_kind_is_one_typed_error(make: Callable[..., Path], name: str, content: bytes) -> None:
    folder = make(**{name.replace(".", "__"): content})
    with pytest.raises(BundleSchemaError) as caught:
        model = load(folder, threads=1)
        assert model.second_pass and model.translator
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {"conv_stride": {"a": 1}}), ("config.json", {"conv_stride": [0, 2]}),
        ("config.json", {"pad_token_id": {}}), ("config.json", {"vocab_size": "x"}),
        ("preprocessor_config.json", {"sampling_rate": 0}),
        ("preprocessor_config.json", {"sampling_rate": []}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": {}}}), ("added_tokens.json", {"a": "x"}),
    ],
)  # fmt: skip
def test_settings_beside_a_bare_model_are_checked(
    make: Callable[..., Path], name: str, content: dict[str, Any]
) -> None:
    with pytest.raises(BundleSchemaError):
        open_bundle(make("bare", **{name.replace(".", "__"): json.dumps(content).encode()}))


@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
@pytest.mark.parametrize(
    "name", ["mt_encoder.onnx", "mt_decoder.onnx", "asr_memory.onnx", "punctuation.onnx"]
)
@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x08\x3a\x02\x0a\x00"])
def test_what_is_no_graph_is_one_typed_error_that_names_it(
    make: Callable[..., Path], name: str, content: bytes, backend: Any
) -> None:
    folder = make(**{name.replace(".", "__"): content})
    with pytest.raises((ModelError, BundleSchemaError), match=name.replace(".", r"\.")):
        model = load(folder, threads=1, backend=backend)
        assert model.second_pass and model.translator


def located(name: str, at: str) -> bytes:
    """The graph of a role, in which the tensors of the embeddings lie at another place."""
    content = SEEDS["mel"][name]
    assert external_files(content) == {"mt_embeddings.bin"}
    return content.replace(b"mt_embeddings.bin", at.encode())


@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
@pytest.mark.parametrize(
    "at", ["/etc/alternative", "../etc/xpasswd..", "mt_encoder.onnx.x", "*/_ORT_MEM_ADDR_/"]
)
def test_a_translator_reads_no_other_file(make: Callable[..., Path], at: str, backend: Any) -> None:
    at = at.ljust(17, "_")[:17]
    model = load(make(mt_encoder__onnx=located("mt_encoder.onnx", at)), threads=1, backend=backend)
    with pytest.raises((BundleIntegrityError, ModelError)):
        model.translate_text(["Der Hund."])


def test_a_file_is_named_wherever_in_a_model_a_tensor_does() -> None:
    def field(number: int, content: bytes) -> bytes:
        return write_field(number, content)

    entry = field(1, b"location") + field(2, b"secret")
    tensor = field(13, entry)
    attribute = field(5, field(5, tensor))
    graph = field(1, attribute)
    inside = field(1, field(5, field(6, field(5, tensor))))  # of a graph that an attribute holds
    sparse = field(15, field(2, tensor))
    for content in (
        field(7, graph),
        field(7, inside),
        field(7, sparse),
        field(25, field(7, field(5, field(5, tensor)))),
    ):
        assert external_files(content) == {"secret"}
    assert external_files(field(7, field(2, b"location"))) == set()


def tokenizer_with(change: Callable[[list[Any]], None]) -> bytes:
    fields = split_message(SEEDS["mel"]["mt_tokenizer.model"])
    change(fields)
    return write_message(fields)


def with_charsmap(charsmap: bytes) -> bytes:
    def change(fields: list[Any]) -> None:
        at = next(i for i, field in enumerate(fields) if field[0] == 3)
        inner = [(n, k, charsmap if n == 2 else value) for n, k, value in split_message(fields[at][2])]
        fields[at] = (3, 2, write_message(inner))

    return tokenizer_with(change)


def charsmap_of(model: bytes) -> bytes:
    normalizer = next(value for number, _, value in split_message(model) if number == 3)
    return next(value for number, _, value in split_message(normalizer) if number == 2)


def test_a_table_of_characters_that_leads_out_of_itself_is_refused() -> None:
    whole = charsmap_of(SEEDS["mel"]["mt_tokenizer.model"])
    check_model(with_charsmap(whole), "intact")
    far = bytearray(whole)
    far[4:8] = struct.pack("<I", 0x3FFFFF << 10)  # the root's children
    for damaged in (bytes(far), whole[:2000], b"\0\0\0\0", b"abc", struct.pack("<I", 8) + bytes(8)):
        with pytest.raises(ModelError):
            check_model(with_charsmap(damaged), "damaged")


def test_pieces_are_text_with_a_score() -> None:
    piece = next(
        value for number, _, value in split_message(SEEDS["mel"]["mt_tokenizer.model"]) if number == 1
    )
    text, score, *rest = split_message(piece)
    for wrong in ([(1, 2, b"\xff\xfe"), score], [text, (2, 5, struct.pack("<f", np.nan))]):
        content = write_message([*wrong, *rest])
        with pytest.raises(ModelError):
            Tokenizer(
                tokenizer_with(lambda fields, content=content: fields.insert(0, (1, 2, content))), None, None
            )


@pytest.mark.parametrize("change", [{"x": 0}, {"\ud800": 240}, {"x": 10**400}, {"x": -1}, {"x": 1.5}])
def test_ids_of_pieces_are_each_given_once(make: Callable[..., Path], change: dict[str, Any]) -> None:
    vocabulary = json.loads(SEEDS["mel"]["mt_vocabulary.json"])
    model = load(make(mt_vocabulary__json=json.dumps(vocabulary | change).encode()), threads=1)
    with pytest.raises(BundleSchemaError):
        model.translate_text(["Der Hund."])


class NoNumbers:
    """A translator whose scores are NaN."""

    backend, choice = "test", None

    def start(self, *_: Any) -> NoNumbers:
        return self

    def step(self, ids: Any, row_idx: Any, kept: Any, cancel: CancelToken | None) -> Any:
        return np.full((len(ids), 100), np.nan, np.float32)


@pytest.mark.parametrize("beam_size", [1, 2])
def test_a_translator_without_numbers_is_an_error_not_an_empty_text(beam_size: int) -> None:
    search = EncoderDecoder(NoNumbers(), TranslationConfig(1, 0, 1, 100, 1, 1, 16))
    with pytest.raises(ModelError, match="no numbers"):
        search.generate([[5, 0]], [4], beam_size=beam_size, length_penalty=1.0)


def test_frames_that_are_not_as_long_as_the_manifest_says_are_an_error_not_wrong_times(
    make: Callable[..., Path],
) -> None:
    with pytest.raises(ModelError, match="samples_per_frame"):
        model = load(make(manifest__json=manifest_with("acoustic", "samples_per_frame", 640)), threads=1)
        model.compute_log_probs(model.compute_features(CLIP))  # onnxruntime's frames are counted only now


def test_the_command_line_says_so_in_one_line(
    make: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = tmp_path / "text"
    text.write_text("Der Hund.\n")
    folder = make(mt_encoder__onnx=b"no graph")
    assert main(["translate", "--text_file", str(text), "--model", str(folder)]) == 1
    said = capsys.readouterr().err.strip().split("\n")
    assert len(said) == 1 and said[0].startswith("engine: error: onnxruntime cannot load mt_encoder.onnx")


def test_bundle_and_files_stay_within_their_folder(make: Callable[..., Path]) -> None:
    bundle = open_bundle(make())
    assert isinstance(bundle, Bundle)
    with pytest.raises(EngineError):
        bundle.graph("asr_decoder")  # whose table is not named
    assert bundle.graph("asr_decoder", "asr_embeddings")

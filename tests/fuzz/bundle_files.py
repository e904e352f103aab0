"""Two tiny bundles that together have every role, and ways to damage their files behind right hashes."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from engine.bundle import layout
from engine.runtime.onnx_file import OnnxFormatError, read_graph, with_metadata
from tests.fuzz.mutate import (
    Rng,
    Schema,
    dump_json,
    mutate_arrays,
    mutate_bytes,
    mutate_lines,
    mutate_message,
    mutate_tree,
    pick,
)

SEEDS = Path(__file__).parents[1] / "data" / "fuzz" / "bundles.zip"
MODELS = [path.read_bytes() for path in sorted((SEEDS.parents[1] / "decoder").glob("tiny.*.bin"))]
MANIFEST = "manifest.json"
Files = dict[str, bytes]

_ENTRY: Schema = {}
_TENSOR: Schema = {13: _ENTRY}
_SHAPE: Schema = {1: {}}
_TYPE: Schema = {1: {2: _SHAPE}}
_VALUE: Schema = {2: _TYPE}
_ATTRIBUTE: Schema = {5: _TENSOR}
_GRAPH: Schema = {1: {5: _ATTRIBUTE}, 5: _TENSOR, 11: _VALUE, 12: _VALUE, 13: _VALUE}
MODEL: Schema = {7: _GRAPH, 8: {}, 14: _ENTRY}
TOKENIZER: Schema = {1: {}, 2: {}, 3: {}, 4: {1: {}}, 5: {}}
BARE: dict[str, Any] = {
    "config.json": {"conv_stride": [5, 2, 2, 2, 2, 2, 2], "pad_token_id": 0, "vocab_size": 32},
    "preprocessor_config.json": {
        "sampling_rate": 16000,
        "do_normalize": True,
        "return_attention_mask": False,
    },
    "processor_config.json": {"feature_extractor": {"sampling_rate": 16000, "do_normalize": True}},
    "tokenizer_config.json": {"word_delimiter_token": "|", "added_tokens_decoder": {"1": {"content": "|"}}},
    "added_tokens.json": {"ß": 31},
}


def read_seeds() -> dict[str, Files]:
    """Files of the bundles "mel" and "waveform", and of "bare", a model beside its checkpoint's settings."""
    found: dict[str, Files] = {}
    with zipfile.ZipFile(SEEDS) as archive:
        for name in archive.namelist():
            folder, _, file = name.partition("/")
            found.setdefault(folder, {})[file] = archive.read(name)
    waveform = found["waveform"]
    found["bare"] = {"model.onnx": waveform["acoustic.onnx"], "vocab.json": waveform["vocab.json"]}
    found["bare"] |= {name: json.dumps(content).encode() for name, content in BARE.items()}
    return found


def mutate_bundle(seeds: Mapping[str, Files], rng: Rng) -> tuple[str, Files]:
    """Name of an undamaged bundle, and its files that are changed; the manifest says their hashes."""
    name = pick(rng, ("mel", "mel", "mel", "waveform", "waveform", "bare"))
    files, changed = seeds[name], {}
    for _ in range(1 if rng.random() < 0.8 else 2):
        file = MANIFEST if MANIFEST in files and rng.random() < 0.25 else pick(rng, sorted(files))
        changed[file] = mutate_file(file, changed.get(file, files[file]), rng, list(files.values()))
    if MANIFEST in files:
        changed[MANIFEST] = seal(changed.get(MANIFEST, files[MANIFEST]), changed)
    return name, changed


def mutate_file(name: str, content: bytes, rng: Rng, others: list[bytes]) -> bytes:
    """Damage a file in a way that suits its kind; now and then in any."""
    if name == "language_model.bin" and rng.random() < 0.5:  # of another kind
        content = pick(rng, MODELS)
        if rng.random() < 0.3:
            return content
    if rng.random() < 0.05:
        return pick(rng, (b"", b"\0", content[: len(content) // 2], pick(rng, others), content * 2))
    if rng.random() < 0.12:
        return mutate_bytes(content, rng, others)
    if name.endswith(".onnx"):
        return _mutate_layout(content, rng) if rng.random() < 0.5 else _mutate_graph(content, rng)
    if name.endswith(".json"):
        return _mutate_json(content, rng)
    if name.endswith(".model"):
        return mutate_message(content, TOKENIZER, rng)
    if name.endswith(".npz"):
        return mutate_arrays(content, rng)
    if name == "language_model.bin" and content.startswith(b"\\data"):
        return mutate_lines(content, rng, ("<unk>", "<s>"))
    return mutate_bytes(content, rng, others)


def _mutate_json(content: bytes, rng: Rng) -> bytes:
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        return mutate_bytes(content, rng)
    return dump_json(mutate_tree(tree, rng), rng)


def _mutate_graph(content: bytes, rng: Rng) -> bytes:
    """Nodes, constants or declarations; half the time with a layout table sealed to what they became."""
    changed = mutate_message(content, MODEL, rng)
    return _sealed_table(changed, None) if rng.random() < 0.5 else changed


def _mutate_layout(content: bytes, rng: Rng) -> bytes:
    try:
        text = read_graph(content, _AnyFile()).metadata.get(layout.KEY)
        tree = json.loads(text or "null")
    except (OnnxFormatError, ValueError, TypeError):
        return mutate_bytes(content, rng)
    if not isinstance(tree, dict):
        return _mutate_graph(content, rng)
    tree["model"] = mutate_tree(tree["model"], rng)
    if rng.random() < 0.1:
        tree["unused"] = mutate_tree(tree["unused"] or ["x"], rng)
    return _sealed_table(content, tree)


class _AnyFile(dict[str, bytes]):
    """Data of tensors that lie in another file: zeros, since only their names and shapes count here."""

    def __bool__(self) -> bool:
        return True

    def __missing__(self, name: str) -> bytes:
        return b"\0" * (1 << 20)


def _sealed_table(content: bytes, tree: Any) -> bytes:
    """The graph with a table whose digest is right; as it was where that cannot be."""
    try:
        graph = read_graph(content, _AnyFile())
        tree = tree or json.loads(graph.metadata[layout.KEY])
        model = msgspec.json.encode(tree["model"])
        unused = [name for name in tree["unused"] if name in graph.constants]
        tree |= {"unused": unused, "digest": layout.compute_digest(graph, model, unused)}
        return with_metadata(content, layout.KEY, msgspec.json.encode(tree).decode())
    except (
        OnnxFormatError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        msgspec.EncodeError,
        MemoryError,
    ):
        return content


def seal(manifest: bytes, changed: Mapping[str, bytes]) -> bytes:
    """The manifest with sizes and hashes of the files that were changed, wherever it still names them."""
    for name, content in changed.items():
        if name == MANIFEST:
            continue
        digest, size = hashlib.sha256(content).hexdigest(), len(content)
        pattern = rb'("path":\s*"%s",\s*"sha256":\s*")[0-9a-f]{64}(",\s*"bytes":\s*)\d+' % re.escape(
            name.encode()
        )
        manifest = re.sub(pattern, rb"\g<1>%s\g<2>%d" % (digest.encode(), size), manifest)
    return manifest

"""The readers that tests.fuzz.manifests calls: undamaged inputs, ways to damage them, and the call."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from engine.decoding.hotwords import build_hotwords, freeze_phrases
from engine.decoding.labels import build_labels
from engine.decoding.lexicon import build_lexicon, load_lexicon
from engine.decoding.ngram import NgramModel
from engine.manifests import read_manifest
from engine.manifests.text_file import read_lines
from engine.options import DecodingOptions
from engine.output.numbers import write_digits
from engine.serve.requests import read_request
from engine.serve.settings import ServeSettings
from engine.serve.uploads import Uploads
from engine.text import VOCABULARY, normalize_text
from engine.translation.sentences import split_to_fit
from engine.translation.tokenizer import clean_text
from engine.types import Word
from tests.fuzz.mutate import (
    LITERALS,
    STRINGS,
    Rng,
    dump_json,
    mutate_arrays,
    mutate_bytes,
    mutate_lines,
    mutate_tree,
    pick,
)

ROOT = Path(__file__).parents[2]
DECODER = ROOT / "tests" / "data" / "decoder"
MODULES = (
    "engine.decoding.arpa", "engine.decoding.hotwords", "engine.decoding.kenlm_layout",
    "engine.decoding.lexicon", "engine.decoding.ngram", "engine.manifests.corpora",
    "engine.manifests.datasets", "engine.manifests.parts", "engine.manifests.reader", "engine.manifests.rows",
    "engine.manifests.tables", "engine.manifests.text_file", "engine.output.numbers",
    "engine.serve.fields", "engine.serve.requests",
    "engine.text", "engine.translation.sentences", "training.asr.config", "training.common.config",
    "training.common.text_files", "training.mt.config",
)  # fmt: skip
LABELS = build_labels(VOCABULARY, 0, "|")
TEXT = """Am 7. November 1938, um 14:30 Uhr, kostete es 1.234,50 Euro (ca. 5 %).
dr. müller kommt z.b. heute nicht und dann geht er wieder nach hause weil es regnet
siebten november neunzehnhundertachtunddreißig, drei millionen fünfhunderttausend
Was? Ja! „Nein …“ http://example.org/a/b?c=d 0123456789012345678901234567890 ﬁ ǆ Ａ
"""
YAML_WORDS = (
    "*a", "&a", "!!python/object/apply:os.system [x]", "!!binary x", "!!timestamp 2001-99-99", "2001-99-99",
    "1:90:00", "0b_", "0o9", "0x_", ".inf", "-.inf", ".nan", "1_000", "~", "<<: *a", "? [a]", "!!float x",
    "!!int x", "!!set {a}", "!!omap [a: 1]", "|", ">", "- - -", "---", "...", "%YAML 9.9", "'",
    '"\\ud800"', "[[",
    "{a: ", "training.max_steps", "&a [*a]",
)  # fmt: skip
BOMB = "".join(f"x{i}: &x{i} [" + ", ".join([f"*x{i - 1}"] * 9 if i else ["1"] * 9) + "]\n" for i in range(9))


@dataclass(frozen=True)
class Reader:
    """One kind of input.

    Attributes:
        mutate: a damaged input. read: takes it, with a folder for files; EngineError where it is refused.
    """

    name: str
    mutate: Callable[[Rng], bytes]
    read: Callable[[bytes, Path], Any]


def make_readers(folder: Path) -> list[Reader]:
    """All readers; folder: for what they need beside their input."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    _write_audio(folder)
    return [
        *_manifests(),
        *_corpora(folder),
        *_datasets(),
        *_models(folder),
        *_texts(),
        *_settings(),
        _form(),
    ]


def _write_audio(folder: Path) -> None:
    for name in ("a.wav", "b c.wav", "clips/a.mp3.wav", "clips/c.wav"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, np.zeros(8000, np.float32), 16_000)


def _place(content: bytes, folder: Path, name: str) -> Path:
    """The input as a file; not written in place, since an older one may be mapped."""
    path = folder / name
    beside = folder / "beside"
    beside.write_bytes(content)
    beside.replace(path)
    return path


def _file(name: str, call: Callable[[Path], Any]) -> Callable[[bytes, Path], Any]:
    return lambda content, folder: call(_place(content, folder, name))


# Manifests.

ROWS: list[dict[str, Any]] = [
    {"path": "a.wav", "text_de": "ja nein", "text_en": "yes", "offset": 0.1, "duration": 0.2, "speaker": "x"},
    {
        "path": "b c.wav",
        "text_de": "",
        "text_en": None,
        "offset": 0,
        "duration": 0.5,
        "speaker": "ä",
        "id": "7",
    },
    {"path": "clips/c.wav", "text_de": "größe 7", "text_en": "", "offset": 0.4, "duration": 9, "speaker": 3},
]
COLUMNS = (
    "path",
    "audio_filepath",
    "text",
    "sentence",
    "translation",
    "offset",
    "duration",
    "id",
    "split",
    "client_id",
)


def _table(rows: Sequence[dict[str, Any]], separator: str) -> bytes:
    names = list(rows[1])
    lines = [separator.join(names)]
    lines += [
        separator.join("" if row.get(n) is None else str(row.get(n, "")) for n in names) for row in rows
    ]
    return ("\n".join(lines) + "\n").encode()


def _manifests() -> list[Reader]:
    tsv, table = _table(ROWS, "\t"), _table(ROWS, ",") + b'a.wav,"ja, ""nein""",,,,,\n'

    def objects(rng: Rng) -> bytes:
        parts = [dump_json(mutate_tree(row, rng) if rng.random() < 0.7 else row, rng) for row in ROWS]
        return b"\n".join(part.replace(b"\n", b" ") for part in parts)

    return [
        Reader("manifest.tsv", lambda rng: mutate_lines(tsv, rng, COLUMNS), _file("m.tsv", read_manifest)),
        Reader("manifest.csv", lambda rng: mutate_lines(table, rng, COLUMNS), _file("m.csv", read_manifest)),
        Reader("manifest.jsonl", objects, _file("m.jsonl", read_manifest)),
    ]


def _corpora(folder: Path) -> list[Reader]:
    covost = b"path\ttranslation\tsplit\tclient_id\n" + b"".join(
        f'{name}\tyes \\"x\\"\t{split}\tq\n'.encode()
        for name, split in (
            ("c.wav", "test"),
            ("a.mp3.wav", "train"),
            ("z.mp3", "train_covost"),
            ("c.wav", "dev"),
        )
    )
    voice = b"client_id\tpath\tsentence\tup_votes\n" + b'q\tc.wav\tJa, \\"nein\\".\t2\nq\ta.mp3.wav\tx\t0\n'
    official = b"path\tsentence\ttranslation\tclient_id\nc.wav\tja\tyes\tq\n"
    words = (*COLUMNS, "c.wav", "test", "train")

    def published(content: bytes, place: Path) -> Any:
        (place / "validated.tsv").write_bytes(voice)
        return read_manifest(_place(content, place, "covost.tsv"), clips=place / "clips", split="train")

    def validated(content: bytes, place: Path) -> Any:
        _place(content, place, "validated.tsv")
        (place / "covost.tsv").write_bytes(covost)
        return read_manifest(place / "covost.tsv", clips=place / "clips", split="test")

    def whole(content: bytes, place: Path) -> Any:
        inner = place / "voice"
        (inner / "clips").mkdir(parents=True, exist_ok=True)
        _place(content, place, "beside.tsv").replace(inner / "test.tsv")
        return read_manifest(inner)

    def audio_folder(content: bytes, place: Path) -> Any:
        inner = place / "audio_folder"
        inner.mkdir(exist_ok=True)
        _place(content, place, "beside.csv").replace(inner / "metadata.csv")
        return read_manifest(inner)

    metadata = b"file_name,transcription\na.wav,ja\nb.wav,nein\n"
    return [
        Reader("covost.tsv", lambda rng: mutate_lines(pick(rng, (covost, official)), rng, words), published),
        Reader("validated.tsv", lambda rng: mutate_lines(voice, rng, words), validated),
        Reader("common voice", lambda rng: mutate_lines(voice, rng, words), whole),
        Reader("metadata.csv", lambda rng: mutate_lines(metadata, rng, words), audio_folder),
    ]


def _datasets() -> list[Reader]:
    import pyarrow
    from pyarrow import ipc, parquet

    wave = io.BytesIO()
    soundfile.write(wave, np.zeros(160, np.float32), 16_000, format="WAV")
    cells = [{"bytes": wave.getvalue(), "path": "x.wav"}, {"bytes": None, "path": "y.wav"}, None]
    table = pyarrow.table({"audio": cells, "sentence": ["ja", "nein", None], "age": [1, None, 3]})
    plain = pyarrow.table({"path": ["a.wav", "", None], "text": ["ja", "x", "y"], "offset": [0.0, 1.0, None]})
    wrong = pyarrow.table({"file_name": ["a.wav"], "words": [[1, 2]]})
    streams, files, parquets = [], [], []
    for one in (table, plain, wrong):
        stream, file, column = io.BytesIO(), io.BytesIO(), io.BytesIO()
        with ipc.new_stream(stream, one.schema) as writer:
            writer.write_table(one)
        with ipc.new_file(file, one.schema) as writer:
            writer.write_table(one)
        parquet.write_table(one, column)
        streams.append(stream.getvalue())
        files.append(file.getvalue())
        parquets.append(column.getvalue())

    def from_folder(name: str) -> Callable[[bytes, Path], Any]:
        def read(content: bytes, folder: Path) -> Any:
            inner = folder / f"set_{name.replace('.', '_').replace('/', '_')}"
            target = inner / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _place(content, folder, "beside.bin").replace(target)
            return read_manifest(inner, split="test")

        return read

    def damaged(sources: Sequence[bytes]) -> Callable[[Rng], bytes]:
        return lambda rng: (
            pick(rng, sources) if rng.random() < 0.05 else mutate_bytes(pick(rng, sources), rng, sources)
        )

    return [
        Reader("data.arrow", damaged([*streams, *files]), from_folder("data.arrow")),
        Reader("data.parquet", damaged(parquets), from_folder("test/data.parquet")),
        Reader("train.parquet", damaged(parquets), from_folder("train.parquet")),
    ]


# Language models, lexicons, hotwords.


def _models(folder: Path) -> list[Reader]:
    arpa = (DECODER / "tiny.arpa").read_bytes()
    binaries = [path.read_bytes() for path in sorted(DECODER.glob("tiny.*.bin"))]
    model = NgramModel(DECODER / "tiny.trie.bin")
    saved = folder / "lexicon.npz"
    build_lexicon(LABELS, model).save(saved)
    lexicon = saved.read_bytes()

    def score(path: Path) -> None:
        found = NgramModel(path)
        found.score("der zug kommt xyz heute", bos=True)
        try:
            build_lexicon(LABELS, found)
        finally:
            found.read_unigrams()

    def header(rng: Rng) -> bytes:
        data = bytearray(pick(rng, binaries))
        for _ in range(int(rng.integers(1, 3))):
            at = int(rng.integers(88, 200)) if rng.random() < 0.7 else int(rng.integers(len(data)))
            size = pick(rng, (1, 4, 8))
            data[at : at + size] = (
                pick(rng, (b"\0", b"\xff", b"\1", b"\x7f")) * size if rng.random() < 0.5 else rng.bytes(size)
            )
        return bytes(data) if rng.random() < 0.8 else mutate_bytes(bytes(data), rng, binaries)

    def hotwords(content: bytes, _: Path) -> None:
        listed = content.decode("utf-8", "surrogatepass")
        options = DecodingOptions(hotwords=[word for word in listed.split(",") if word.strip()])
        phrases, weight = freeze_phrases(options.hotwords, options.hotword_weight)
        build_hotwords(LABELS, [(phrase, weight or 1.0) for phrase in phrases])
        pairs = {part.partition("=")[0]: part.partition("=")[2] for part in listed.split(",")}
        weights = {phrase: float(value) for phrase, value in pairs.items() if _is_number(value)}
        found, _ = freeze_phrases(weights, 1.0)
        build_hotwords(LABELS, found)

    listed = "Rothenburg,der zug=3,ä ö ü=1e3,straße,ab=-5,a b=99,Größe=0.5,b".encode()

    def words(rng: Rng) -> bytes:
        text = mutate_lines(listed, rng).decode("utf-8", "replace")
        return text.encode() * int(rng.integers(1, 4))

    return [
        Reader(
            "language_model.arpa",
            lambda rng: mutate_lines(arpa, rng, ("<unk>", "<s>", "\\2-grams:", "\\end\\")),
            _file("lm.arpa", score),
        ),
        Reader("language_model.bin", header, _file("lm.bin", score)),
        Reader(
            "lexicon.npz",
            lambda rng: mutate_arrays(lexicon, rng),
            _file("l.npz", lambda path: load_lexicon(path, LABELS, model).nodes),
        ),
        Reader("hotwords", words, hotwords),
    ]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# Texts.


def _texts() -> list[Reader]:
    import zstandard

    from training.common.text_files import read_text

    def translate(path: Path) -> None:
        for line in read_lines(path):
            text = clean_text(line)
            split_to_fit(text, lambda parts: [len(part.split()) for part in parts], 8)
            text.encode()

    def recognise(path: Path) -> None:
        for line in read_lines(path):
            words = [
                Word(word, float(i), i + 1.0, 0.5) for i, word in enumerate(normalize_text(line).split())
            ]
            write_digits(words)

    def packed(rng: Rng) -> bytes:
        plain = mutate_lines(TEXT.encode(), rng)
        data = zstandard.ZstdCompressor(write_content_size=bool(rng.random() < 0.5)).compress(plain)
        return mutate_bytes(data, rng) if rng.random() < 0.7 else data * int(rng.integers(1, 3))

    def lines(path: Path) -> list[str]:
        return list(read_text(path))

    def text(rng: Rng) -> bytes:
        return mutate_lines(TEXT.encode(), rng)

    return [
        Reader("text to translate", text, _file("t.txt", translate)),
        Reader("text to normalise", text, _file("n.txt", recognise)),
        Reader("training text", text, _file("c.txt", lines)),
        Reader("training text.zst", packed, _file("c.zst", lines)),
    ]


# Settings.


def _settings() -> list[Reader]:
    from training.asr.config import load_config as load_asr
    from training.mt.config import load_config as load_mt

    configs = ROOT / "training" / "configs"
    asr = [path.read_bytes() for path in sorted(configs.glob("asr_*.yaml"))]
    mt = [path.read_bytes() for path in sorted(configs.glob("mt_*.yaml"))]

    def damaged(sources: Sequence[bytes]) -> Callable[[Rng], bytes]:
        def make(rng: Rng) -> bytes:
            found = mutate_lines(_without_comments(pick(rng, sources)), rng, YAML_WORDS)
            bomb = (BOMB + f"{pick(rng, ('train', 'seed', 'model', 'data', 'y'))}: *x8\n").encode()
            return found + bomb if rng.random() < 0.02 else found

        return make

    overrides = {"training.max_steps": 10, "seed.x": 1}
    return [
        Reader("asr.yaml", damaged(asr), _file("asr.yaml", lambda path: load_asr(path, seed=3))),
        Reader("mt.yaml", damaged(mt), _file("mt.yaml", load_mt)),
        Reader("mt.yaml, overrides", damaged(mt), _file("mt2.yaml", lambda path: load_mt(path, overrides))),
    ]


def _without_comments(content: bytes) -> bytes:
    return b"\n".join(line.split(b" #")[0] for line in content.split(b"\n") if not line.startswith(b"#"))


# The service.

FIELDS = (
    ("file", "x"), ("model", "m"), ("language", "de"), ("response_format", "verbose_json"),
    ("hotwords", "a,b"), ("timestamp_granularities[]", "word"), ("stream", "false"), ("passes", "1"),
    ("numbers", "digits"), ("temperature", "0"), ("prompt", "x"),
)  # fmt: skip


def _form() -> Reader:
    from starlette.requests import Request

    names = [name for name, _ in FIELDS]

    def make(rng: Rng) -> bytes:
        parts = [list(field) for field in FIELDS if rng.random() < 0.8]
        for part in parts:
            if rng.random() < 0.3:
                part[int(rng.integers(2))] = str(pick(rng, (*STRINGS, *LITERALS, *names, "srt", "true", "2")))
        body = b"".join(
            b'--B\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
            % (
                name.encode("utf-8", "surrogatepass"),
                b'; filename="x.wav"' if name == "file" else b"",
                value.encode("utf-8", "surrogatepass"),
            )
            for name, value in parts
        )
        body += b"--B--\r\n"
        kind = pick(
            rng,
            ("multipart/form-data; boundary=B",) * 12 + ("application/json", "multipart/form-data", "x", ""),
        )
        body = mutate_bytes(body, rng) if rng.random() < 0.3 else body
        return (
            json.dumps([kind, pick(rng, ("", str(len(body)), "-1", "9" * 30, "ä"))]).encode() + b"\n" + body
        )

    async def ask(content: bytes) -> None:
        head, _, body = content.partition(b"\n")
        kind, length = json.loads(head)
        headers = [(b"content-type", kind.encode()), (b"content-length", length.encode("latin-1", "replace"))]
        scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "query_string": b""}
        pieces = [body[i : i + 300] for i in range(0, len(body), 300)] or [b""]
        messages = [
            {"type": "http.request", "body": piece, "more_body": i + 1 < len(pieces)}
            for i, piece in enumerate(pieces)
        ]

        async def receive() -> Any:
            return messages.pop(0)

        settings = ServeSettings(max_upload_bytes=20_000)
        wanted = await read_request(Request(scope, receive), Uploads(settings), settings)
        wanted.audio.close()

    return Reader("form", make, lambda content, _: asyncio.run(ask(content)))

"""Faults that mutated manifests, texts and settings have shown, one test each."""

from __future__ import annotations

import asyncio
import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from engine.decoding.labels import build_labels
from engine.decoding.lexicon import build_lexicon, load_lexicon
from engine.decoding.ngram import NgramModel
from engine.errors import EngineError, LanguageModelError, ManifestError, OptionError, shorten
from engine.manifests import read_manifest
from engine.text import VOCABULARY

DECODER = Path(__file__).parents[1] / "data" / "decoder"
ARPA = (DECODER / "tiny.arpa").read_text(encoding="utf-8")


def test_a_message_does_not_hold_a_whole_file() -> None:
    error = EngineError("x" * 100_000 + "y", "a", "b")
    assert len(str(error)) < 5000 and "y; expected a; fix: b" in str(error) and len(error.got) == 100_001
    manifest = ManifestError("m", ["z" * 10_000] * 50)
    assert len(str(manifest)) < 5000 and len(manifest.problems[0]) == 10_000
    assert shorten("abc", 3) == "abc"


@pytest.mark.parametrize(
    ("old", "new"),
    [("-0.30103", "1e39"), ("-0.30103", "1e308"), ("-0.30103", "nan"), ("ngram 1=", "ngram 1=" + "9" * 5000)],
)
def test_numbers_of_arpa_files_are_bounded(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(LanguageModelError):
        NgramModel(path)


@pytest.fixture
def lexicon(tmp_path: Path) -> Path:
    path = tmp_path / "lexicon.npz"
    build_lexicon(build_labels(VOCABULARY, 0, "|"), NgramModel(DECODER / "tiny.trie.bin")).save(path)
    return path


def load(path: Path) -> None:
    load_lexicon(path, build_labels(VOCABULARY, 0, "|"), NgramModel(DECODER / "tiny.trie.bin"))


def rewritten(path: Path, change: bytes | None, name: str = "label.npy") -> None:
    """The archive with a member of other content: change, or zeros without end."""
    with zipfile.ZipFile(path) as archive:
        members = {one: archive.read(one) for one in archive.namelist()}
    if change is None:
        buffer = io.BytesIO()
        np.save(buffer, np.zeros(20_000_000, np.uint8))
        members[name] = buffer.getvalue()
    else:
        members[name] = change
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for one, content in members.items():
            archive.writestr(one, content)


HEADER = b"\x93NUMPY\x01\x00v\x00"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"x", HEADER + b"{'descr': '|u1', 'fortran_order': False, 'shape': (9**99,), }".ljust(118),
        HEADER + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(118),
        HEADER + b"{'descr': ('|u1', ".ljust(118), HEADER + b"(((((((((((".ljust(118), HEADER + b"\0" * 118,
    ],
)  # fmt: skip
def test_an_array_with_a_damaged_head_is_no_lexicon(lexicon: Path, content: bytes) -> None:
    rewritten(lexicon, content)
    with pytest.raises(LanguageModelError):
        load(lexicon)


def test_a_lexicon_that_would_fill_the_memory_is_refused_at_once(lexicon: Path) -> None:
    load(lexicon)
    rewritten(lexicon, None)
    tracemalloc.start()
    with pytest.raises(LanguageModelError):
        load(lexicon)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000  # of 20 MB


def test_damaged_offsets_of_a_data_set_are_a_problem_not_a_crash(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"path": ["a.wav", "b.wav"], "text": ["ja", "nein"]})
    buffer = io.BytesIO()
    with pyarrow.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    offsets = np.array([0, 5, 10], "<i4").tobytes()
    wrong = np.array([0, 5, 2**30], "<i4").tobytes()
    assert offsets in buffer.getvalue()
    (tmp_path / "data.arrow").write_bytes(buffer.getvalue().replace(offsets, wrong))
    with pytest.raises(ManifestError, match="not a readable Arrow"):
        read_manifest(tmp_path)


LAUGHS = "".join(
    f"x{i}: &x{i} [" + ", ".join([f"*x{i - 1}"] * 9 if i else ["1"] * 9) + "]\n" for i in range(9)
)


@pytest.mark.parametrize(
    "content",
    [
        LAUGHS + "train: *x8\n", "a: &a [*a]\n", "seed: 0b_\n", "seed: 2001-99-99\n", "seed: 0x_\n",
        f"seed: {'9' * 5000}\n", f"max_s: {'9' * 400}\n", f"epochs: {'9' * 400}\n",
        "train: " + "[" * 5000, "seed: !!float x\n",
        "seed: !!python/object/apply:os.getcwd []\n", "\ud800".encode("utf-8", "surrogatepass"),
        "? [a]\n: 1\n",
    ],
)  # fmt: skip
def test_settings_that_are_none_are_one_error(tmp_path: Path, content: str | bytes) -> None:
    config = pytest.importorskip("training.asr.config")
    from training.common.config import ConfigError

    path = tmp_path / "c.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        config.load_config(path)
    assert len(str(caught.value)) < 5000


def test_aliases_of_settings_stay_allowed(tmp_path: Path) -> None:
    config = pytest.importorskip("training.common.config")
    assert config.parse_value("a: &a {b: 1}\nc: {<<: *a, d: 2}") == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}
    assert config.parse_value("") is None


@pytest.mark.parametrize("app", [None, object()])
def test_a_broken_form_is_an_option_error(app: object) -> None:
    requests = pytest.importorskip("starlette.requests")
    from engine.serve.requests import read_request
    from engine.serve.settings import ServeSettings
    from engine.serve.uploads import Uploads

    settings = ServeSettings()

    async def receive() -> dict[str, object]:
        return {
            "type": "http.request",
            "body": b"--B\r\nContent-Disposition\x00\r\n\r\nx",
            "more_body": False,
        }

    scope = {
        "type": "http",
        "method": "POST",
        "headers": [(b"content-type", b"multipart/form-data; boundary=B")],
    }
    scope |= {"app": app} if app else {}
    with pytest.raises(OptionError, match="form with one file"):
        asyncio.run(read_request(requests.Request(scope, receive), Uploads(settings), settings))

"""Kernels that are compiled ahead: a complete list, every level on any processor, what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core import types

from engine.errors import OptionError, OutputError
from engine.kernels import precompile
from engine.kernels._disk_cache import folder_of
from engine.kernels._signatures import decode, encode
from engine.kernels.encoder.layer import Norm
from engine.kernels.vector import levels

ROOT = Path(__file__).resolve().parents[2]
ARRAY = types.Array(types.float32, 2, "C")
SMALL = {
    "engine.kernels.features.normalize:normalize_into": [
        [{"array": "float32", "form": [1, "C"]}, {"array": "float32", "form": [1, "C"]}]
    ]
}
# Compiles the small list for a level, in the process that the real list is compiled by.
COMPILE_SMALL = """
import sys
from pathlib import Path
from engine.kernels import precompile
precompile.LIST = Path(sys.argv[1])
precompile.run_level(*sys.argv[2:])
"""
CALL_SMALL = """
import numpy as np
from engine.kernels.features.normalize import normalize_into
normalize_into(np.ones(32, np.float32), np.empty(32, np.float32))
stats = normalize_into.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def run(code: str, *arguments: str, **environment: str) -> str:
    """Standard output of a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize(
    "kind",
    [
        types.int64, types.float32, types.boolean, types.none, ARRAY,
        types.Array(types.uint8, 1, "A", readonly=True), types.Array(types.int8, 3, "C", aligned=False),
        types.UniTuple(types.int64, 3), types.Tuple([types.int64, ARRAY]),
        types.NamedTuple([ARRAY, ARRAY.copy(ndim=1), types.float64], Norm),
        types.NamedUniTuple(ARRAY, 3, Norm),
        types.UniTuple(types.NamedTuple([ARRAY, types.int64, types.float64], Norm), 6),
    ],
    ids=str,
)  # fmt: skip
def test_a_type_comes_back_from_json(kind: Any) -> None:
    assert decode(json.loads(json.dumps(encode(kind)))) == kind


def test_a_type_of_records_comes_back() -> None:
    from numba.np.numpy_support import from_dtype

    fields = [
        ("count", np.uint8),
        ("words", np.uint32, 5),
        ("table", np.float32, (2, 3)),
        ("weight", np.float64),
    ]
    for aligned in (True, False):
        record = from_dtype(np.dtype(fields, align=aligned))
        assert record.aligned is aligned
        kind = types.Array(record, 1, "C", aligned=aligned)
        assert decode(json.loads(json.dumps(encode(kind)))) == kind


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="not a type that is compiled ahead"):
        encode(types.unicode_type)


def test_the_list_holds_what_the_embedded_bundle_calls() -> None:
    """Otherwise a first run compiles although everything was shipped."""
    code = (
        "from tests.reference import record_kernels as r; import json; print(json.dumps(r.record('bundle')))"
    )
    called = json.loads(run(code).splitlines()[-1])
    listed = json.loads(precompile.LIST.read_text(encoding="utf-8"))
    assert len(called) > 10
    missing = {
        name: len(extra)
        for name, many in called.items()
        if (extra := [one for one in many if one not in listed.get(name, [])])
    }
    assert missing == {}, "run: python -m tests.reference.record_kernels"


def test_every_listed_kernel_exists() -> None:
    for name, signatures in precompile.read_list().items():
        module, _, function = name.partition(":")
        code = __import__(module, fromlist=[function])
        arguments = getattr(code, function).py_func.__code__.co_argcount
        assert {len(signature) for signature in signatures} == {arguments}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One kernel compiled for every level, whatever this processor is."""
    place = tmp_path_factory.mktemp("ahead")
    (place / "list.json").write_text(json.dumps(SMALL))
    for name in levels.LEVELS:
        assert run(COMPILE_SMALL, str(place / "list.json"), str(place), name) == "compiled\n"
    return place


def test_every_level_is_compiled_on_any_processor(small: Path) -> None:
    for level in levels.LEVELS.values():
        assert len(list(folder_of(small, level).glob("*.nbc"))) == 1


@pytest.mark.parametrize("name", levels.LEVELS)
def test_what_was_compiled_ahead_is_loaded(small: Path, name: str) -> None:
    if name not in levels.available() or levels._on_this_processor(name) != levels.LEVELS[name]:
        pytest.skip(f"this processor has no {name} in the form that is shipped")
    hits = run(CALL_SMALL, NUMBA_CACHE_DIR=str(small), ENGINE_CPU_LEVEL=name)
    assert hits.split() == ["1", "0"]


def test_a_folder_of_another_level_or_version_is_not_read(small: Path, tmp_path: Path) -> None:
    for level in levels.LEVELS.values():
        folder = folder_of(small, level)
        other = tmp_path / folder.name.replace(folder.name.split("-")[1], "0" * 16)
        other.mkdir()
        for file in folder.iterdir():
            (other / file.name).write_bytes(file.read_bytes())
    assert run(CALL_SMALL, NUMBA_CACHE_DIR=str(tmp_path)).split() == ["0", "1"]


def test_damaged_code_is_compiled_again(small: Path, tmp_path: Path) -> None:
    level = levels.active()
    if level.name == levels.NONE:
        pytest.skip("no instruction set level")
    folder = folder_of(tmp_path, level)
    folder.mkdir()
    for file in folder_of(small, levels.LEVELS[level.name]).iterdir():
        (folder / file.name).write_bytes(file.read_bytes()[:100])
    assert run(CALL_SMALL, NUMBA_CACHE_DIR=str(tmp_path)).split() == ["0", "1"]
    assert run(CALL_SMALL, NUMBA_CACHE_DIR=str(tmp_path)).split() == ["1", "0"]


def test_an_unknown_level_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"level 'avx9'.*one of avx2, avx-vnni, avx512, amx"):
        precompile.compile_ahead(tmp_path, ["avx2", "avx9"], 1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_error_before_anything_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(precompile, "_start", lambda *arguments: pytest.fail("a process was started"))
    with pytest.raises(OutputError, match=r"kernels for avx2 could not be compiled.*name another folder"):
        precompile.compile_ahead(tmp_path / "file", ["avx2"], 2)


def test_a_folder_that_fails_while_it_is_written_is_the_same_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file stands where the level's folder would be; only the small list is compiled."""
    (tmp_path / "list.json").write_text(json.dumps(SMALL))
    folder_of(tmp_path, levels.LEVELS["avx2"]).write_text("")
    shorter = f"p.LIST = p.Path({str(tmp_path / 'list.json')!r}); run_level("
    start = precompile.START.replace("run_level(", f"import engine.kernels.precompile as p; {shorter}")
    monkeypatch.setattr(precompile, "START", start)
    with pytest.raises(OutputError, match=r"kernels for avx2 could not be compiled \(.*(exists|directory)"):
        precompile.compile_ahead(tmp_path, ["avx2"], 2)

"""The kernels' disk cache: a folder for each state of the sources, also where nothing can be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.kernels import _disk_cache
from engine.kernels._disk_cache import (
    digest_sources,
    drop_other_states,
    find_folder,
    list_places,
    name_target,
)
from engine.kernels.vector.levels import LEVELS, Level

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import numpy as np
from engine.kernels._disk_cache import find_cache
from engine.kernels.features.normalize import normalize_into
normalize_into(np.ones(32, np.float32), np.empty(32, np.float32))
stats = normalize_into.stats
print(find_cache().own, sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def test_a_change_of_any_source_is_another_state(tmp_path: Path) -> None:
    caller, callee = tmp_path / "caller.py", tmp_path / "callee.py"
    caller.write_text("1")
    callee.write_text("1")
    before, times = digest_sources(tmp_path), callee.stat()
    assert digest_sources(tmp_path) == before
    callee.write_text("2")
    os.utime(callee, ns=(times.st_atime_ns, times.st_mtime_ns))  # an image's layers have one time for all
    assert digest_sources(tmp_path) != before


def test_the_folder_that_holds_kernels_comes_before_one_that_can_be_written(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert find_folder([first, second], "a") == first / "kernels-a"
    compiled = second / "kernels-a"
    compiled.mkdir(parents=True)
    (compiled / "f.nbi").write_text("code")
    assert find_folder([first, second], "a") == compiled
    assert find_folder([first, second], "b") == first / "kernels-b"


def test_where_nothing_can_be_written_there_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert find_folder([tmp_path / "file" / "below"], "a") is None
    assert find_folder([tmp_path / "file" / "below", tmp_path], "a") == tmp_path / "kernels-a"


def test_earlier_states_are_dropped(tmp_path: Path) -> None:
    for name in ("kernels-a-1", "kernels-b-1", "kernels-b-2", "other"):
        (tmp_path / name).mkdir()
    drop_other_states(tmp_path, "b")  # a shared folder may serve several kinds of processors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kernels-b-1", "kernels-b-2", "other"]


def test_another_processor_is_another_state(monkeypatch: pytest.MonkeyPatch) -> None:
    none = Level("none", "", ())
    names = {name_target(level) for level in (*LEVELS.values(), none)}
    assert len(names) == len(LEVELS) + 1
    before = name_target(none)  # made for the processor that compiles
    monkeypatch.setattr(_disk_cache.config, "CPU_NAME", "generic")
    assert name_target(none) != before
    assert name_target(LEVELS["avx2"]) in names  # made for a level, whichever processor compiles


def test_the_variable_names_the_only_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert len(list_places(tmp_path)) == 2 or os.environ.get("NUMBA_CACHE_DIR")
    monkeypatch.setattr(_disk_cache.config, "CACHE_DIR", str(tmp_path))
    assert list_places(Path("sources")) == [tmp_path]


def run(cache: Path) -> list[str]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()


def test_a_second_process_compiles_nothing_and_a_lost_disk_stops_nobody(tmp_path: Path) -> None:
    folder, hits, misses = run(tmp_path / "cache")
    assert Path(folder).parent == tmp_path / "cache" and (int(hits), int(misses)) == (0, 1)
    assert run(tmp_path / "cache") == [folder, "1", "0"]
    for path in Path(folder).glob("*.nb*"):  # what is left cannot be read, and cannot be replaced
        path.unlink()
        path.mkdir()
    assert run(tmp_path / "cache")[0] == folder


def test_two_processes_may_compile_at_once(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0][0] == said[1][0]
    assert run(tmp_path)[1:] == ["1", "0"]


def test_a_full_disk_stops_nobody(tmp_path: Path) -> None:
    """The code of a kernel is larger than files may be; what was begun is removed."""
    resource = pytest.importorskip("resource")
    program = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    program += f"resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)){PROGRAM}"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    assert resource.RLIMIT_FSIZE
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.split()[1:] == ["0", "1"]
    assert not list(tmp_path.rglob("*.nbc"))

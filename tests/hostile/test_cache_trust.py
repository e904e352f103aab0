"""Compiled kernels are code: a cache that other users may write is neither read nor written."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.kernels._disk_cache import find_folder, is_trusted, make_folder
from engine.kernels._trust import _owners, find_distrusted

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="the system has no such rights")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder of the user's own, below one that all may write and that has the sticky bit, as /tmp."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    folder = shared / "cache" / "kernels"
    make_folder(folder)
    assert find_distrusted(folder) is None
    return folder


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o1777])
def test_a_folder_that_others_may_write(home: Path, mode: int) -> None:
    home.chmod(mode)
    assert find_distrusted(home) == home


def test_a_folder_above_that_others_may_write(home: Path) -> None:
    home.parent.chmod(0o777)
    assert find_distrusted(home) == home.parent
    home.parent.chmod(0o1777)
    assert find_distrusted(home) is None
    home.parents[1].chmod(0o777)
    assert find_distrusted(home) == home.parents[1]


def test_a_folder_of_a_group(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.chmod(0o775)
    monkeypatch.setattr("engine.kernels._trust._is_own_group", lambda group: False)
    assert find_distrusted(home) == home
    monkeypatch.setattr("engine.kernels._trust._is_own_group", lambda group: True)
    assert find_distrusted(home) is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_a_folder_or_link_of_another_user(home: Path) -> None:
    link = home.parents[1] / "link"
    link.symlink_to(home)
    assert find_distrusted(link) is None
    os.lchown(link, 12345, 12345)
    assert find_distrusted(link) == link
    os.chown(home, 12345, 12345)
    assert find_distrusted(home) == home


def test_a_link_that_leads_through_a_folder_of_others(home: Path) -> None:
    open_to_all = home.parents[1] / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    (open_to_all / "kernels").mkdir()
    link = home / "link"
    link.symlink_to(Path("..", "..", "open", "kernels"))
    assert find_distrusted(link) == open_to_all
    loop = home / "loop"
    loop.symlink_to(loop)
    find_distrusted(loop)  # ends


def test_root_has_another_number_in_a_rootless_container(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/uid_map").exists():
        pytest.skip("the system has no user namespaces")
    monkeypatch.setattr("engine.kernels._trust.ALL_USERS", ["a map that this process has not"])
    assert len(_owners()) == 3 and _owners()[2] >= 65_534
    assert find_distrusted(home) is None


def test_within_the_package_its_own_rights_count(home: Path) -> None:
    package = home / "package"
    package.mkdir()
    package.chmod(0o777)  # whoever may write there may change the sources
    inner = package / "__pycache__" / "kernels-a"
    inner.mkdir(parents=True)
    inner.chmod(0o777)
    assert find_distrusted(inner, package) is None
    package.chmod(0o755)
    assert find_distrusted(inner, package) == inner


def test_the_next_place_is_taken_and_the_user_is_told(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    is_trusted.cache_clear()
    caplog.set_level(logging.WARNING, "engine")  # other tests may have changed the root's
    planted = home / "kernels-state"
    planted.mkdir()
    (planted / "f.nbi").write_bytes(b"code of somebody else")
    planted.chmod(0o777)
    other = home.parent / "other"
    assert find_folder([home, other], "state") == other / "kernels-state"
    assert str(planted) in caplog.text and "NUMBA_CACHE_DIR" in caplog.text
    assert find_folder([home], "state") is None


def test_folders_are_made_for_this_user_alone_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b")] == [0o755, 0o755]


def test_planted_kernels_are_not_run(tmp_path: Path) -> None:
    """numba's index is a pickle, which runs code when it is read."""
    place = tmp_path / "kernels"
    place.mkdir()
    code = (
        "import sys, pickle, numba; from pathlib import Path;"
        "from engine.kernels import _disk_cache as c; from engine.kernels.vector.levels import active;"
        "from engine.kernels.features.normalize import normalize_into as f;"
        "folder = c.folder_of(Path(sys.argv[1]), active()); folder.mkdir(parents=True, exist_ok=True);"
        "evil = b'cos\\nsystem\\n(S\\'touch ' + str(folder.parent / 'ran').encode() + b'\\'\\ntR.';"
        "name = c.KernelCache(f.py_func, c.Places(None, folder))._own._impl.filename_base;"
        "(folder / (name + '.nbi')).write_bytes(pickle.dumps(numba.__version__) + evil);"
        "print(folder)"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(place)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(place)], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    folder = Path(done.stdout.strip())
    assert done.returncode == 0 and folder.is_dir(), done.stderr
    use = (
        "import engine.kernels._disk_cache as c; c.SHIPPED = c.Path('/nowhere'); import numpy as np;"
        "from engine.kernels.features.normalize import normalize_into as f;"
        "print(c.find_cache().own); cache = c.KernelCache(f.py_func, c.find_cache());"
        "print(cache._own and cache._own._cache_file.load((1, 2)))"
    )

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "-c", use], capture_output=True, text=True, cwd=ROOT, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    folder.chmod(0o777)
    assert "None\nNone\n" in run() and not (place / "ran").exists()
    folder.chmod(0o755)
    run()
    assert (place / "ran").exists()  # so it would have run

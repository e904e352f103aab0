"""Import paths of the last release still work, and say where the names are now."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from engine._moved import MOVED

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("old", "new"), sorted(MOVED.items()))
def test_an_old_path_is_the_module_under_its_new_name(old: str, new: str) -> None:
    sys.modules.pop(old, None)
    module = importlib.import_module(new)
    with pytest.warns(DeprecationWarning, match=f"{old} has moved to {new}"):
        assert importlib.import_module(old) is module
    assert module.__spec__ is not None and module.__spec__.name == new
    assert module.__name__ == new


@pytest.mark.parametrize(
    "line",
    [
        "from engine.audio import load_audio, StreamResampler",
        "from engine.bundle import Bundle, open_bundle, write_bundle",
        "from engine.acoustic import AcousticModel",
        "from engine.translation import Translator",
        "from engine.session import open_session",
        "from engine.session import CancelToken",
        "from engine.vad import detect_speech",
    ],
)
def test_names_of_old_modules_that_are_folders_now(line: str) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", line]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "line", ["import engine.ray as r", "from engine import ray as r", "import engine; r = engine.ray"]
)
def test_the_class_for_ray_is_also_where_users_look_for_it(line: str) -> None:
    code = f"{line}; import engine.jobs.ray; assert r is engine.jobs.ray; print(r.Transcriber.__module__)"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "engine.jobs.ray", done.stderr


def test_an_unknown_name_is_still_unknown() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("engine.no_such_module")

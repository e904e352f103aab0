"""What the pages about peers and results name exists: commands, files, requirements; the example runs."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cli import SUBCOMMANDS
from benchmarks.protocol.client import WORKER_FOLDER, PeerProcess

ROOT = Path(__file__).resolve().parents[2]
PEERS, RESULTS = ROOT / "benchmarks" / "peers", ROOT / "benchmarks" / "results"
LIBRARY = """
class Found:
    text = "guten Tag"

class Model:
    def transcribe(self, path):
        return Found()

__version__ = "3.1"

def open(path, threads):
    return Model()
"""  # what the example of the page wraps
PAGES = [PEERS / "README.md", RESULTS / "README.md", ROOT / "benchmarks" / "README.md"]


def commands_of_results() -> dict[str, list[str]]:
    """The commands that the committed result files hold."""
    found = {}
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        found[path.name] = [run["command"] for run in result.get("runs", [result]) if "command" in run]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.parent.name)
def test_modules_and_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for module in set(re.findall(r"python -m (benchmarks[\w.]*)", text)):
        assert importlib.util.find_spec(module), module
    for name in set(re.findall(r"\b((?:benchmarks|training|examples)/[\w/.-]*\.(?:py|txt|yml|md))", text)):
        assert (ROOT / name).is_file() or "$name" in name, name
    for name in re.findall(r"`([\w-]+/)`", text):
        assert (page.parent / name).is_dir() or (ROOT / name).is_dir(), name


def test_commands_of_results_exist() -> None:
    for name, commands in commands_of_results().items():
        for command in commands:
            program, *arguments = command.split()
            if program == "engine-bench":
                first = arguments[0] if arguments else "--"
                assert first.startswith("-") or first in SUBCOMMANDS, f"{name}: {command}"
            else:
                assert importlib.util.find_spec(arguments[1]), f"{name}: {command}"


def test_every_result_is_named_and_every_named_result_exists() -> None:
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+\.json)`", text))
    assert named == {path.name for path in RESULTS.glob("*.json")}
    for subcommand in re.findall(r"engine-bench ([a-z][a-z-]+)", text):
        assert subcommand in SUBCOMMANDS, subcommand


def test_every_kind_of_peer_has_its_folder_and_starts_with_the_protocol() -> None:
    scripts = [path for path in PEERS.glob("*/*.py") if not path.stem.startswith("_")]
    scripts = [path for path in scripts if path.parent.name != "interop"]  # compares results, not speed
    assert {path.parent.name for path in scripts} == {
        "speech",
        "encoders",
        "decoders",
        "translators",
        "features",
    }
    for path in scripts:
        text = path.read_text(encoding="utf-8")
        assert "serve(" in text or "serve_speech(" in text, path
        ours = path.stem == "engine_encoder"
        assert ours or ("import benchmarks" not in text and "from benchmarks" not in text), path


def test_the_example_of_the_readme_is_a_peer(tmp_path: Path) -> None:
    text = (PEERS / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "mine.py").write_text(example, encoding="utf-8")
    (tmp_path / "my_library.py").write_text(LIBRARY, encoding="utf-8")
    with PeerProcess(tmp_path / "mine.py", arguments=["--model", "m"]) as peer:
        peer.load()
        assert peer.run("transcribe", {"path": "a.wav"}).outputs == {"text_de": "guten Tag"}
        assert peer.signature.startswith("name:mine|model:m|") and "version:my_library 3.1" in peer.signature


def test_the_worker_needs_numpy_and_the_standard_library_alone() -> None:
    code = (
        "import sys; import numpy; numpys = set(sys.modules); import peer_worker\n"
        "print(*{n.split('.')[0] for n in set(sys.modules) - numpys} - set(sys.stdlib_module_names))"
    )
    environment = {**os.environ, "PYTHONPATH": str(WORKER_FOLDER)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd="/"
    )
    assert done.stdout.split() == ["peer_worker"]

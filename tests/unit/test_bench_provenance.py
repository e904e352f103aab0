"""Where a figure comes from: the commit, whether files differ from it, and what was typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.reports.provenance import OUTSIDE, command_line, commit, provenance

ROOT = Path(__file__).resolve().parents[2]
IDENTITY = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *IDENTITY, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_checkout_names_its_commit_and_marks_changes(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "--quiet", "-m", "a")
    whole = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "result.json").write_text("{}")  # untracked: what is being written changes nothing
    assert commit(tmp_path) == whole[:10]
    (tmp_path / "a").write_text("2")
    assert commit(tmp_path) == f"{whole[:10]}+"


def test_an_installed_package_has_no_commit(tmp_path: Path) -> None:
    assert commit(tmp_path) == OUTSIDE


def test_a_command_can_be_pasted_into_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        command_line("engine-bench", ["--peer_args", "--model x"]) == "engine-bench --peer_args '--model x'"
    )
    monkeypatch.setattr(sys, "argv", ["tool", "--json", "a b"])
    paths = [
        "--data",
        "/a/b c/d.tsv",
        "--json=/x/y.json",
        "--peer_args",
        "--model /m/w --n 1/2",
        "../r/s.tsv",
    ]
    assert (
        command_line("t", paths)
        == "t --data 'b c/d.tsv' --json=y.json --peer_args '--model w --n 1/2' ../r/s.tsv"
    )
    assert provenance("tool")["command"] == "tool --json 'a b'"


def test_peers_environments_can_import_it() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import benchmarks.reports.provenance"
    subprocess.run([sys.executable, "-S", "-c", code, str(ROOT)], check=True)


# Written before the tools kept their command; benchmarks/results/README.md says so of each.
BEFORE = {
    "encoder_peers", "encoder_peers_onnxruntime_transformers", "training", "training_memory",
    "translation_peers_opus_shape",
}  # fmt: skip


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks" / "results").glob("*.json")), ids=lambda p: p.stem
)
def test_every_result_says_where_it_comes_from(path: Path) -> None:
    readme = (path.parent / "README.md").read_text(encoding="utf-8")
    assert f"`{path.name}`" in readme
    result = json.loads(path.read_text(encoding="utf-8"))
    runs = result.get("runs", [result])
    known = all(
        "command" in run and ("commit" in run or "commit:" in run.get("signature", "")) for run in runs
    )
    assert known or path.stem in BEFORE

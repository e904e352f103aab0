"""The workflow and the containers name only what there is: make targets, extras, commands, files to copy."""

import re
import runpy
from pathlib import Path

import pytest
import setuptools
import yaml

from engine.cli.parser import build_parser

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))


def extras(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    found: dict = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", found.update)
    runpy.run_path(str(ROOT / "setup.py"))
    return set(found["extras_require"])


def test_the_workflow_runs_the_two_commands_of_the_makefile() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    commands = [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step]
    assert commands == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands:
        assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_container_is_built_from_what_there_is_and_runs_as_a_plain_user(path: Path, monkeypatch) -> None:
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    asked = {name for group in re.findall(r"'\.\[([a-z,]+)\]'", text) for name in group.split(",")}
    assert asked and asked <= extras(monkeypatch)
    last = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER (?!root)\w+$", last, re.MULTILINE)
    warmup = re.search(r"^RUN engine (warmup.*)$", last, re.MULTILINE)
    assert warmup and build_parser().parse_args(warmup[1].split()).command == "warmup"
    entry = re.search(r"^ENTRYPOINT (\[.*\])$", last, re.MULTILINE)
    assert entry
    program, *arguments = yaml.safe_load(entry[1])
    command = "wyoming" if path.suffix == ".wyoming" else "serve"
    assert program == "engine" and build_parser().parse_args(arguments).command == command


def test_the_builder_is_given_everything_that_the_package_is_built_from() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    given = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines and all((ROOT / name).exists() for name in given)
    assert given >= {"engine", "export", "training", "benchmarks", "examples", "setup.py", "pyproject.toml"}
    assert given >= {"README.md", "LICENSE", "NOTICE", "MANIFEST.in"}
    assert DOCKERFILES

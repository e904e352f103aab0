"""The workflow and the containers name only what there is: make targets, extras, commands, files to copy."""

import re
import runpy
import subprocess
from fnmatch import fnmatch
from itertools import takewhile
from pathlib import Path, PurePosixPath

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
    asked = {name for group in re.findall(r"\.whl\)\[([a-z,]+)\]", text) for name in group.split(",")}
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


def steps(path: Path) -> list[tuple[str, str]]:
    """Instruction and arguments of each step."""
    text = re.sub(r"^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


def ignored(name: str) -> bool:
    """Whether .dockerignore keeps a path from the builder: its last line that matches decides."""
    found = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip().removeprefix("!")
        if not pattern or line.startswith("#"):
            continue
        parts = PurePosixPath(name).parts
        heads = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        tails = [part for part in parts if pattern.startswith("**/")]
        if any(fnmatch(head, pattern) for head in heads) or any(
            fnmatch(tail, pattern.removeprefix("**/")) for tail in tails
        ):
            found = not line.startswith("!")
    return found


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_a_container_copies_is_there(path: Path) -> None:
    stages = [found[1] for step, rest in steps(path) if step == "FROM" and (found := rest.split(" AS "))[1:]]
    for step, rest in steps(path):
        assert step in "FROM ENV ARG RUN WORKDIR COPY USER EXPOSE HEALTHCHECK ENTRYPOINT".split(), step
        if step != "COPY":
            continue
        *flags, source, target = rest.split()
        if flags:
            assert flags == [f"--from={stages[0]}"] and source == target  # a venv holds absolute paths
            assert any(run == "RUN" and what.endswith(f"venv {source}") for run, what in steps(path))
        else:
            assert source == "." and (ROOT / source).is_dir()


def test_the_builder_is_given_all_that_git_knows_of_the_package_and_nothing_else() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=False, capture_output=True, text=True, timeout=60
    ).stdout.split()
    if not listed:
        pytest.skip("no checkout of git's")
    packages = ("engine/", "export/", "training/", "benchmarks/", "examples/")
    needed = [name for name in listed if name.startswith(packages)]
    assert needed and [name for name in needed if ignored(name)] == []
    for name in ("tests/conftest.py", ".git/config", "docs/index.md", "engine/kernels/compiled/avx2/a.nbc"):
        assert ignored(name)
    assert ignored("engine/__pycache__/a.cpython-311.pyc") and ignored("engine/text/a.pyc")


def test_images_share_the_layers_up_to_their_packages() -> None:
    """The kernels take most of the time of a build; alike steps are run once."""
    first, *others = (
        list(takewhile(lambda step: "pip install" not in step[1], steps(path))) for path in DOCKERFILES
    )
    assert "pip wheel" in first[-1][1] and all(other == first for other in others)


def test_the_builder_is_given_everything_that_the_package_is_built_from() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    given = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines and all((ROOT / name).exists() for name in given)
    assert given >= {"engine", "export", "training", "benchmarks", "examples", "setup.py", "pyproject.toml"}
    assert given >= {"README.md", "LICENSE", "NOTICE", "MANIFEST.in"}
    assert DOCKERFILES

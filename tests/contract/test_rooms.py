"""Folders and the arrows between them: no circle, no folder that is too full to look through."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_ENTRIES = 20  # files and folders of one floor, private ones (_moved.py, __init__.py) not counted


def room_of(package: str, module: str) -> str:
    """A module's folder below the package; a file of the package's own floor is a room by itself."""
    parts = module.split(".")
    return ".".join(parts[:2])


def modules(package: str) -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules that a file imports when it is itself imported."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & known.keys()) or {node.module or ""}
    return found & known.keys()


def arrows(package: str) -> dict[str, set[str]]:
    known = modules(package)
    graph: dict[str, set[str]] = defaultdict(set)
    for name, path in known.items():
        if name == package:
            continue
        room = room_of(package, name)
        graph[room] |= {room_of(package, other) for other in imports(path, known)} - {room, package}
    return graph


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    done: set[str] = set()

    def visit(room: str, path: list[str]) -> list[str]:
        if room in path:
            return [*path[path.index(room) :], room]
        if room in done:
            return []
        for other in sorted(graph.get(room, ())):
            if circle := visit(other, [*path, room]):
                return circle
        done.add(room)
        return []

    for room in sorted(graph):
        if circle := visit(room, []):
            return circle
    return []


def test_a_circle_is_found() -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
    assert find_circle({"a": {"b"}, "b": {"c"}}) == []


@pytest.mark.parametrize("package", ["engine", "export", "training", "benchmarks"])
def test_no_circle_of_imports_between_rooms(package: str) -> None:
    assert find_circle(arrows(package)) == []


@pytest.mark.parametrize("package", ["engine", "export", "training", "benchmarks"])
def test_no_floor_has_too_many_entries(package: str) -> None:
    sizes = {}
    for folder in [ROOT / package, *(ROOT / package).rglob("*/")]:
        if (folder / "__init__.py").is_file():
            entries = [
                entry
                for entry in folder.iterdir()
                if not entry.name.startswith("_")
                and (entry.suffix == ".py" or (entry.is_dir() and any(entry.rglob("*.py"))))
            ]
            sizes[str(folder.relative_to(ROOT))] = len(entries)
    assert {name: size for name, size in sizes.items() if size > MAX_ENTRIES} == {}

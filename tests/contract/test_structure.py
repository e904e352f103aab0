"""Limits that keep the code readable: files, functions, silence of the runtime."""

import ast
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("engine", "export", "training", "benchmarks")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def product_files() -> list[Path]:
    return sorted(path for folder in PRODUCT for path in (ROOT / folder).rglob("*.py"))


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1


def test_no_file_is_longer_than_four_hundred_lines() -> None:
    sizes = {
        str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in product_files()
    }
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_LINES} == {}


def test_no_function_is_longer_than_sixty_lines_and_most_are_short() -> None:
    lengths = {
        f"{path.relative_to(ROOT)}:{node.name}": length(node)
        for path in product_files()
        for node in functions(path)
    }
    assert {name: size for name, size in lengths.items() if size > MAX_FUNCTION_LINES} == {}
    assert statistics.median(lengths.values()) <= 12


def test_the_runtime_never_prints_nor_exits() -> None:
    wrong = []
    for path in (ROOT / "engine").rglob("*.py"):
        if "cli" in path.parts or path.name == "__main__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"print", "exit", "quit"}:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


def test_every_public_function_of_the_runtime_has_a_docstring() -> None:
    missing = [
        f"{path.relative_to(ROOT)}:{node.name}"
        for path in (ROOT / "engine").rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert missing == []


def test_every_folder_of_code_is_a_package_that_a_wheel_holds() -> None:
    """setuptools leaves a folder without __init__.py out; from a checkout it would still be imported."""
    folders = {
        path.parent for folder in ("engine", "export", "training") for path in (ROOT / folder).rglob("*.py")
    }
    assert sorted(str(folder) for folder in folders if not (folder / "__init__.py").is_file()) == []

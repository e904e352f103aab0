"""The arrows that the architecture allows between folders, checked on the source and in a fresh process."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = {"engine", "export", "training", "benchmarks", "tests"}
HEAVY = {"torch", "transformers", "onnx", "optimum", "tensorflow"}
FORBIDDEN = {
    "engine": {*HEAVY, "export", "training", "benchmarks", "tests"},
    "engine/kernels": {*HEAVY, *OURS, "onnxruntime", "soundfile", "soxr", "sentencepiece", "msgspec"},
    "export": {"benchmarks", "tests"},
    "training": {"benchmarks", "tests", "export"},
    "benchmarks": {"torch", "transformers", "onnx", "onnxruntime", "export", "training", "tests"},
}
ALLOWED = {
    "engine/kernels": {"engine.kernels", "engine.errors"},
    # Peers and kernels are measured against what they came from.
    "benchmarks/peers": None,
    "benchmarks/kernels": None,
    "benchmarks/gpu": None,
}
OWNERS = {
    "onnxruntime": {"engine/runtime/onnx_session.py"},
    "soundfile": {"engine/audio/sndfile.py", "engine/audio/parts.py"},
    "sounddevice": {"engine/cli/microphone.py"},
    "soxr": {"engine/audio/sink.py"},
    "av": {"engine/audio/media.py"},
    "sentencepiece": {"engine/translation/tokenizer.py"},
    "num2words": {"engine/text/words.py"},
    "text_to_num": {"engine/output/numbers.py"},
    "tqdm": {"engine/cli/terminal.py"},
    "uvicorn": {f"engine/serve/transport/{name}.py" for name in ("server", "connections", "websockets")},
    "prometheus_client": {"engine/serve/metrics.py"},
    "wyoming": {"engine/serve/wyoming/protocol.py"},
    "zeroconf": {"engine/serve/wyoming/discovery.py"},
}


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names.add(node.module or "")
    return names


def rule_for(path: Path) -> tuple[set[str], set[str] | None]:
    name = path.relative_to(ROOT).as_posix()
    for folder in sorted({*FORBIDDEN, *ALLOWED}, key=len, reverse=True):
        if name.startswith(folder + "/"):
            return FORBIDDEN.get(folder, set()), ALLOWED.get(folder, set())
    return set(), set()


@pytest.mark.parametrize("folder", ["engine", "export", "training", "benchmarks"])
def test_no_file_imports_what_its_folder_may_not(folder: str) -> None:
    wrong = []
    for path in python_files(folder):
        forbidden, allowed = rule_for(path)
        for module in imported_modules(path):
            if any(module == a or module.startswith(a + ".") for a in allowed or ()):
                continue
            if module.split(".")[0] in forbidden:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert wrong == []


def test_every_native_library_has_one_owner() -> None:
    wrong = []
    for path in python_files("engine"):
        name = path.relative_to(ROOT).as_posix()
        for module in imported_modules(path):
            owners = OWNERS.get(module.split(".")[0])
            if owners and name not in owners:
                wrong.append(f"{name} imports {module}")
    assert wrong == []


def test_a_fresh_process_that_imports_engine_holds_nothing_heavy() -> None:
    code = "import engine, sys; print(*{name.split('.')[0] for name in sys.modules})"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert not HEAVY & set(result.stdout.split())


def test_the_decoder_alone_loads_no_model_audio_or_service() -> None:
    """engine.decoding is a library of its own: numpy and numba."""
    code = "import engine.decoding, sys; print(*{name.split('.')[0] for name in sys.modules})"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    others = {
        "onnxruntime",
        "msgspec",
        "soundfile",
        "soxr",
        "av",
        "sentencepiece",
        "uvicorn",
        "kenlm",
        "tqdm",
    }
    assert not (HEAVY | others) & set(result.stdout.split())

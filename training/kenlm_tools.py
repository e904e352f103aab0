"""Finding KenLM's lmplz and build_binary, and building them once from the kenlm source package.

Build them with `python -m training.kenlm_tools FOLDER` (needs cmake, a C++ compiler and boost;
about two minutes), then put FOLDER/bin on PATH or in $KENLM_BIN.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

KENLM = "kenlm==0.3.0"
TOOLS = ("lmplz", "build_binary")
logger = logging.getLogger("training")


def find_tool(name: str) -> str:
    """Return the path of one of TOOLS, from $KENLM_BIN or PATH; raise SystemExit with the way to build it."""
    folder = os.environ.get("KENLM_BIN")
    found = shutil.which(name, path=folder) if folder else shutil.which(name)
    if found is None:
        raise SystemExit(
            f"{name} is not on PATH nor in $KENLM_BIN; build it with: python -m training.kenlm_tools FOLDER"
        )
    return found


def build_tools(folder: Path) -> Path:
    """Download the kenlm source package and compile TOOLS; return the folder of the programs."""
    folder.mkdir(parents=True, exist_ok=True)
    download = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation"]
    subprocess.run([*download, "--no-binary", "kenlm", KENLM, "-d", str(folder)], check=True)
    (archive,) = folder.glob("kenlm-*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    source = folder / archive.name.removesuffix(".tar.gz")
    build = source / "build"
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DKENLM_MAX_ORDER=6"]
    subprocess.run(["cmake", "-S", str(source), "-B", str(build), *options], check=True)
    subprocess.run(["cmake", "--build", str(build), "--target", *TOOLS], check=True)
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for tool in TOOLS:
        shutil.copy2(build / "bin" / tool, programs / tool)
    return programs


def estimate(text: Path, arpa: Path, order: int, prune: str, vocabulary: Path, memory: str) -> None:
    """Run lmplz: modified Kneser-Ney over one sentence a line, limited to a vocabulary."""
    command = [
        find_tool("lmplz"), "-o", str(order), "--prune", *prune.split(), "--discount_fallback",
        "--limit_vocab_file", str(vocabulary), "-S", memory, "-T", str(arpa.parent / "lmplz"),
        "--text", str(text), "--arpa", str(arpa),
    ]  # fmt: skip
    _run(command)


def write_binary(arpa: Path, binary: Path, bits: int) -> None:
    """Run build_binary: a trie with array pointers, quantised to `bits`, without the words' strings."""
    quantise = ["-q", str(bits), "-b", str(bits)] if bits else []
    _run([find_tool("build_binary"), "-v", *quantise, "-a", "22", "trie", str(arpa), str(binary)])


def _run(command: list[str]) -> None:
    logger.info("%s", " ".join(command))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    print(f"built {build_tools(Path(sys.argv[1]))}")

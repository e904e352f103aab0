"""Finding KenLM's lmplz and build_binary, and building them once from the kenlm source package.

Build them with `python -m training.lm.kenlm_tools FOLDER` (two to five minutes), then put FOLDER/bin on PATH
or in $KENLM_BIN. That needs cmake, a C++ compiler and boost with its headers (`apt-get install cmake g++
libboost-all-dev`, `brew install cmake boost`, or `conda install cmake libboost-devel`). Boost is found in the
system's folders, in Homebrew's, in a conda environment, and where $BOOST_ROOT points (the folder that holds
include/boost).
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from engine.errors import EngineError

KENLM = "kenlm==0.3.0"
TOOLS = ("lmplz", "build_binary")
BOOST_HEADER = Path("include", "boost", "version.hpp")
BOOST_LIBRARIES = ("program_options", "system", "thread", "unit_test_framework")
BOOST_FOLDERS = ("/usr", "/usr/local", "/opt/homebrew", "/opt/homebrew/opt/boost", "/opt/local", "/opt/boost")
INSTALL_BOOST = "apt-get install libboost-all-dev (or brew install boost, or conda install libboost-devel)"
BUILD_S, ESTIMATE_S = 3600, 86_400  # until a child that hangs is given up
logger = logging.getLogger("training")


class KenlmBuildError(EngineError, RuntimeError):
    """KenLM's programs cannot be built; the message says what is missing and how to get it."""


def find_tool(name: str) -> str:
    """Return the path of one of TOOLS, from $KENLM_BIN or PATH; raise SystemExit with the way to build it."""
    folder = os.environ.get("KENLM_BIN")
    found = shutil.which(name, path=folder) if folder else shutil.which(name)
    if found is None:
        raise SystemExit(
            f"{name} is not on PATH nor in $KENLM_BIN; build it: python -m training.lm.kenlm_tools FOLDER"
        )
    return found


def find_boost() -> Path:
    """The folder that holds boost's include/boost and libraries.

    Raises:
        KenlmBuildError: boost is not in $BOOST_ROOT or the usual places, or its libraries are missing.
    """
    given = os.environ.get("BOOST_ROOT")
    around = [os.environ.get("CONDA_PREFIX", ""), sys.prefix]
    places = [Path(place) for place in ([given] if given else [*around, *BOOST_FOLDERS]) if place]
    found = next((place for place in places if (place / BOOST_HEADER).is_file()), None)
    if found is None:
        where = f"$BOOST_ROOT={given}" if given else ", ".join(map(str, places))
        raise KenlmBuildError(
            f"no boost headers: none of {where} holds {BOOST_HEADER}",
            "boost 1.41 or newer with its headers",
            f"{INSTALL_BOOST}, or set BOOST_ROOT to the folder that holds include/boost",
        )
    missing = [name for name in BOOST_LIBRARIES if not _has_library(found, name)]
    if missing:
        raise KenlmBuildError(
            f"boost in {found} without its libraries {', '.join(missing)}", "the compiled ones", INSTALL_BOOST
        )
    return found


def _has_library(root: Path, name: str) -> bool:
    return any(any(root.glob(f"{folder}/libboost_{name}*")) for folder in ("lib", "lib64", "lib/*"))


def _require_programs() -> None:
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    missing = [] if shutil.which("cmake") else ["cmake"]
    missing += [] if compiler and shutil.which(compiler.split()[0]) else ["a C++ compiler"]
    if missing:
        raise KenlmBuildError(f"no {' and no '.join(missing)} on PATH", "both", "apt-get install cmake g++")


def build_tools(folder: Path) -> Path:
    """Download the kenlm source package and compile TOOLS.

    Returns:
        The folder of the programs.
    Raises:
        KenlmBuildError: boost, cmake or a compiler is missing (before anything is downloaded), or the
            build failed; its last lines are in the message.
    """
    _require_programs()
    boost = find_boost()
    folder.mkdir(parents=True, exist_ok=True)
    download = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--no-build-isolation"]
    if not any(folder.glob("kenlm-*.tar.gz")):
        _build_step([*download, "--no-binary", "kenlm", KENLM, "-d", str(folder)])
    (archive,) = folder.glob("kenlm-*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    source = folder / archive.name.removesuffix(".tar.gz")
    build = source / "build"
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DKENLM_MAX_ORDER=6", f"-DCMAKE_PREFIX_PATH={boost}"]
    _build_step(["cmake", "-S", str(source), "-B", str(build), f"-DBOOST_ROOT={boost}", *options])
    _build_step(["cmake", "--build", str(build), "--target", *TOOLS])
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for tool in TOOLS:
        shutil.copy2(build / "bin" / tool, programs / tool)
    return programs


def _build_step(command: list[str]) -> None:
    logger.info("%s", " ".join(command))
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=BUILD_S
        )
    except subprocess.TimeoutExpired as error:
        raise KenlmBuildError(f"`{' '.join(command[:3])} ...` did not end within {BUILD_S} s") from error
    if done.returncode:
        raise KenlmBuildError(
            f"`{' '.join(command[:3])} ...` ended with {done.returncode}:\n{done.stdout[-3000:]}"
        )


def estimate(text: Path, arpa: Path, order: int, prune: str, vocabulary: Path, memory: str) -> None:
    """Run lmplz: modified Kneser-Ney over one sentence per line, limited to a vocabulary."""
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
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ESTIMATE_S)
    except subprocess.TimeoutExpired as error:
        raise SystemExit(f"{command[0]} did not end within {ESTIMATE_S} s") from error
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m training.lm.kenlm_tools FOLDER")
    try:
        print(f"built {build_tools(Path(sys.argv[1]))}")
    except KenlmBuildError as error:
        raise SystemExit(str(error)) from None

"""The environment of the other packages: built once, and again where its list of packages changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.errors import PeerError, PeerNotInstalledError

PACKAGES = Path(__file__).resolve().parents[1] / "requirements" / "interop.txt"
BESIDE = ("pyctcdecode", "pygtrie", "kenlm")  # what a user installs beside the engine, without dependencies
INSTALL_S = 3600


def build_environment(folder: Path, torch: str) -> Path:
    """Make the environment, unless it is there; returns its interpreter.

    Args:
        folder: of the environment.
        torch: what pip is to install as torch, such as "torch==2.13.0".
    Raises:
        PeerNotInstalledError: cmake or a C++ compiler is missing, or pip failed; the message has its end.
    """
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp = folder / "packages.txt"
    wanted = f"{torch}\n{PACKAGES.read_text(encoding='utf-8')}"
    if python.exists() and stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    require_compiler()
    if not python.exists():
        install([sys.executable, "-P", "-m", "venv", str(folder)], "making the environment")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    install([*pip, torch, *pinned("numpy")], f"installing {torch}")
    install([*pip, "-r", str(PACKAGES)], "installing the packages; kenlm is compiled")
    stamp.write_text(wanted, encoding="utf-8")
    return python


def install_beside(folder: Path) -> Path:
    """pyctcdecode and kenlm in a folder of their own, without what they depend on; returns the folder."""
    target, stamp = folder / "beside", folder / "beside.txt"
    wanted = pinned(*BESIDE)
    if stamp.is_file() and stamp.read_text(encoding="utf-8").split() == wanted:
        return target
    require_compiler()
    shutil.rmtree(target, ignore_errors=True)
    pip = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    install([*pip, "--no-deps", "--target", str(target), *wanted], "installing pyctcdecode beside the engine")
    stamp.write_text("\n".join(wanted), encoding="utf-8")
    return target


def pinned(*names: str) -> list[str]:
    """The lines of the requirements for these packages, in their order."""
    lines = PACKAGES.read_text(encoding="utf-8").split("\n")
    return [line for name in names for line in lines if line.startswith(f"{name}==")]


def packages_digest() -> str:
    """Eight hex digits that change with the list of packages."""
    return hashlib.sha256(PACKAGES.read_bytes()).hexdigest()[:8]


def require_compiler() -> None:
    """Refuse to begin where kenlm could not be compiled in the end."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    missing = [] if shutil.which("cmake") else ["cmake"]
    missing += [] if compiler and shutil.which(compiler.split()[0]) else ["a C++ compiler"]
    if missing:
        raise PeerNotInstalledError(
            f"no {' and no '.join(missing)} on PATH", "both: kenlm 0.3.0 has no wheels",
            "apt-get install cmake g++ (or brew install cmake, or conda install cmake cxx-compiler)",
        )  # fmt: skip


def install(command: list[str], what: str) -> None:
    """Run one step.

    Raises:
        PeerNotInstalledError: it failed.
    """
    print(f"{what} ...", flush=True)
    run_step(command, what, INSTALL_S, PeerNotInstalledError)


def run_step(
    command: list[str], what: str, limit_s: float, error: type[PeerError] = PeerError, **more: str
) -> None:
    """Run a command with further variables; what it printed is shown only where it fails."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            timeout=limit_s, env={**os.environ, **more},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise error(f"{what} did not end within {limit_s:.0f} s", fix="run it again: it goes on") from None
    if done.returncode:
        tail = "\n".join(done.stdout.strip().split("\n")[-15:])
        raise error(
            f"{what} ended with {done.returncode}:\n{tail}", fix="run it again: what is done stays done"
        )

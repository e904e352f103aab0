"""Packages for a machine without a network, from a folder that was copied there."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path
from shutil import rmtree


def install(wheel_dir: Path, site: Path) -> Path:
    """Unpack what a folder holds, so that PYTHONPATH=site finds it.

    Args:
        wheel_dir: holds *.whl, and unpacked packages (NAME.tar.xz, or cut to NAME.tar.xz.0, .1, ...).
        site: an empty folder.
    Returns:
        site.
    Raises:
        FileNotFoundError: the folder holds neither.
    """
    wheels, parts = sorted(wheel_dir.glob("*.whl")), sorted(wheel_dir.glob("*.tar.xz*"), key=_number)
    if not wheels and not parts:
        raise FileNotFoundError(f"{wheel_dir} holds no *.whl and no *.tar.xz; pip download into it first")
    if wheels:
        pip = [sys.executable, "-P", "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--target", str(site), *map(str, wheels)], check=True, timeout=1800)
    for name in dict.fromkeys(part.name.partition(".tar.xz")[0] for part in parts):
        joined = site / f"{name}.tar.xz"
        joined.write_bytes(b"".join(p.read_bytes() for p in parts if p.name.partition(".tar.xz")[0] == name))
        with tarfile.open(joined) as archive:
            archive.extractall(site, filter="data")
        joined.unlink()
    # The machine may have plain onnxruntime, which this package hides. With both names installed, the engine
    # would report that one has overwritten the other.
    for folder in site.glob("onnxruntime_gpu-*.dist-info"):
        rmtree(folder)
    return site


def _number(path: Path) -> tuple[str, int]:
    name, _, end = path.name.partition(".tar.xz")
    return name, int(end.lstrip(".") or 0)

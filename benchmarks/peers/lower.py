"""Make the libraries of an environment see a processor that has AVX2 and nothing above it.

    python -m benchmarks.peers.lower ENVIRONMENT

A library may use registers of 512 bits only where the operating system saves them. It finds this out with
one instruction, xgetbv, which is replaced by its answer on a processor without such registers, in the files
of ENVIRONMENT: a virtual environment made for this. benchmarks/peers/README.md, "All on AVX2", explains why
variables are not enough.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.protocol.worker.peer_worker import RECORD

# The question, and the answer "x87, SSE and AVX registers". All else stays the same: later code gives cpuid
# the zero in ecx. The second does not change the upper bits of eax, which matter only with AMX.
ANSWERS = {
    bytes.fromhex("0f01d0 89c0"): bytes.fromhex("b807000000"),  # xgetbv; mov eax, eax -> mov eax, 7
    bytes.fromhex("31c9 0f01d0"): bytes.fromhex("31c9 b007 90"),  # xor ecx, ecx; xgetbv -> ..; mov al, 7
}


def main(argv: Sequence[str] | None = None) -> int:
    """Change the libraries, and record it for the signatures of what runs there; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers.lower", description=__doc__.split("\n")[0])
    parser.add_argument("environment", type=Path, help="a virtual environment made for this")
    folder = parser.parse_args(argv).environment
    if not (folder / "pyvenv.cfg").is_file():
        parser.error(f"{folder} is not a virtual environment (it has no pyvenv.cfg)")
    found, record = lower(folder), folder / RECORD
    packages = set(json.loads(record.read_text(encoding="utf-8"))["packages"]) if record.exists() else set()
    packages |= {package_of(path) for path in found}
    if not packages:
        parser.error(f"no library in {folder} asks what registers are saved")
    lowered = {"level": "avx2", "packages": sorted(packages)}
    record.write_text(json.dumps(lowered) + "\n", encoding="utf-8")
    for path, places in found.items():
        print(f"{path}: {places}")
    return 0


def package_of(path: Path) -> str:
    """The package that a file belongs to; its bundled libraries are in "package.libs"."""
    parts = path.parts
    return parts[parts.index("site-packages") + 1].split(".")[0] if "site-packages" in parts else path.name


def lower(folder: Path) -> dict[Path, int]:
    """Change every shared library below a folder, but no links.

    Returns:
        The number of places changed, by path.
    """
    found = {}
    for path in sorted(folder.rglob("*.so*")):
        if path.is_symlink() or not path.is_file():
            continue
        data, places = path.read_bytes(), 0
        for question, answer in ANSWERS.items():
            places += data.count(question)
            data = data.replace(question, answer)
        if places:
            found[path.relative_to(folder)] = places
            changed = path.with_name(f"new_{path.name}")  # hard links elsewhere must have the old content
            changed.write_bytes(data)
            changed.chmod(path.stat().st_mode)
            changed.replace(path)
    return found


if __name__ == "__main__":
    raise SystemExit(main())

"""A checkpoint folder as float16 weights in parts of a limited size, and back.

python -m benchmarks.gpu.parts split runs/mt/final parts --part-mb 15
python -m benchmarks.gpu.parts join parts checkpoint
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

WEIGHTS, HALF, INDEX = "model.safetensors", "weights.fp16", "parts.json"
SMALL_FILES = ("*.json", "*.spm", "*.model", "*.md", "*.txt")


def main(argv: Sequence[str] | None = None) -> int:
    """Split or join; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu.parts", description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=("split", "join"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--part-mb", type=float, default=15.0)
    options = parser.parse_args(argv)
    if options.action == "split":
        names = split(options.source, options.target, int(options.part_mb * 2**20))
    else:
        names = join(options.source, options.target)
    print(f"{options.target}: {', '.join(names)}")
    return 0


def split(checkpoint: Path, target: Path, part_bytes: int) -> list[str]:
    """Write the weights in float16 and cut them; small files are packed with them.

    Raises:
        ValueError: weights that float16 cannot hold.
    """
    import torch
    from safetensors.torch import load_file, save

    target.mkdir(parents=True, exist_ok=True)
    tensors = load_file(checkpoint / WEIGHTS)
    half = {k: t.half() if t.is_floating_point() else t for k, t in tensors.items()}
    lost = [k for k, t in half.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if lost:
        raise ValueError(f"float16 cannot hold {', '.join(lost[:3])}; copy {WEIGHTS} as it is")
    content = save(half, metadata={"format": "pt"})
    names = [f"{HALF}.{i}" for i in range(-(-len(content) // part_bytes))]
    for index, name in enumerate(names):
        (target / name).write_bytes(content[index * part_bytes : (index + 1) * part_bytes])
    small = sorted({path for pattern in SMALL_FILES for path in checkpoint.glob(pattern)})
    for path in small:
        shutil.copyfile(path, target / path.name)
    files = [path.name for path in small]
    described = {"sha256": hashlib.sha256(content).hexdigest(), "parts": names, "files": files}
    (target / INDEX).write_text(json.dumps(described) + "\n", encoding="utf-8")
    return [*names, *files, INDEX]


def join(parts: Path, target: Path) -> list[str]:
    """Put a checkpoint together again, its weights in float32.

    Raises:
        ValueError: a part is missing or damaged.
    """
    from safetensors.torch import load, save_file

    index = json.loads((parts / INDEX).read_text(encoding="utf-8"))
    missing = [name for name in [*index["parts"], *index["files"]] if not (parts / name).is_file()]
    content = b"".join((parts / name).read_bytes() for name in index["parts"]) if not missing else b""
    if missing or hashlib.sha256(content).hexdigest() != index["sha256"]:
        raise ValueError(f"parts in {parts} are damaged or missing ({', '.join(missing)}); fetch them again")
    target.mkdir(parents=True, exist_ok=True)
    tensors = {k: t.float() if t.is_floating_point() else t for k, t in load(content).items()}
    save_file(tensors, target / WEIGHTS, metadata={"format": "pt"})
    for name in index["files"]:
        shutil.copyfile(parts / name, target / name)
    return [WEIGHTS, *index["files"]]


if __name__ == "__main__":
    raise SystemExit(main())

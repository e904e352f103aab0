"""A small part of the other packages' answers, committed, so that tests hold the parity without them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

N_UTTERANCES, N_SENTENCES, N_BEAMS = 12, 60, 3
CLIPS = ("clip_0", "clip_1")


def record_facts(folder: Path, answers: Mapping[str, Any], target: Path) -> None:
    """Write facts.json, logits.npz and the tiny folders that optimum-cli wrote.

    Args:
        folder: where the answers lie. target: the folder of the fixtures.
    """
    target.mkdir(parents=True, exist_ok=True)
    models, decoded = answers["models"]["answers"], answers["decode"]["answers"]
    arrays: dict[str, Any] = {}
    for name in ("tiny", "pieces"):
        shutil.rmtree(target / name, ignore_errors=True)
        shutil.copytree(folder / "models" / name / "onnx", target / name)
        logits = np.load(folder / "models" / f"{name}.npz")
        arrays |= {f"{name}.{clip}": logits[clip] for clip in CLIPS}
    np.savez_compressed(target / "logits.npz", **arrays)
    facts = {
        "versions": answers["models"]["versions"],
        "greedy": {name: {c: models[name]["greedy"][c] for c in CLIPS} for name in ("tiny", "pieces")},
        "decoding": {
            name: [beams[:N_BEAMS] for beams in case["pyctcdecode"][:N_UTTERANCES]]
            for name, case in decoded.items()
            if name.startswith(("letters", "pieces"))
        },
        "processor": [row for row in decoded["processor"] if row[0] in CLIPS],
        "kenlm": {
            name: [[score for score, _ in sentence] for sentence in found["scores"][:N_SENTENCES]]
            for name, found in answers["kenlm"]["answers"].items()
            if name.startswith("tiny.")
        },
    }
    content = json.dumps(facts, ensure_ascii=False, separators=(",", ":"))
    (target / "facts.json").write_text(content + "\n", encoding="utf-8")

"""The study of every family at its published size: what it watches, and that it goes on where it stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.errors import MeasurementError
from benchmarks.studies import families

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
HOLDS = "import time; x = bytearray(300 << 20); time.sleep(1.0)"
IN_A_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLDS!r}])"


@pytest.mark.parametrize("code", [HOLDS, IN_A_CHILD])
def test_memory_of_a_command_and_its_children(tmp_path: Path, code: str) -> None:
    found = families.watch([sys.executable, "-c", code], tmp_path)
    assert 0.3 <= found["peak_gb"] < 0.6 and found["wall_s"] >= 1


def test_a_command_that_fails_says_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"ended with 3[\s\S]*no such thing"):
        families.watch([sys.executable, "-c", "print('no such thing'); raise SystemExit(3)"], tmp_path)


def test_every_family_of_the_exporter_has_a_size() -> None:
    known = pytest.importorskip("export.acoustic.families").FAMILIES
    assert {f"{kind.family}ForCTC" for kind in families.KINDS.values()} == {*known}


def test_a_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, measured = tmp_path / "families.json", []

    def measure(name: str, work_dir: Path, keep: bool) -> dict[str, Any]:
        measured.append(name)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return {"of": name}

    monkeypatch.setattr(families, "measure", measure)
    arguments = ["--json", str(path), "--work_dir", str(tmp_path), "--only", "SEW", "SEW-D"]
    with pytest.raises(KeyboardInterrupt):
        families.main(arguments)
    assert [*json.loads(path.read_text())["kinds"]] == ["SEW"]
    assert families.main(arguments) == 0
    assert measured == ["SEW", "SEW-D", "SEW-D"]
    report = json.loads(path.read_text())
    assert [*report["kinds"]] == ["SEW", "SEW-D"] and report["signature"] and report["commit"]


def test_a_checkpoint_is_saved_as_its_makers_do(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    small = {**sizes, "conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    kind = families.Kind("Wav2Vec2", "tests", {**small, "adapter_attn_dim": 8}, "deu")
    make_checkpoint = pytest.importorskip("benchmarks.kernels.family_checkpoint").make_checkpoint
    make_checkpoint(kind, tmp_path / "checkpoint")
    names = {path.name for path in (tmp_path / "checkpoint").iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "adapter.deu.safetensors",
        "preprocessor_config.json",
    } <= names
    assert "|" in json.loads((tmp_path / "checkpoint" / "vocab.json").read_text())["deu"]

"""The queue for a GPU machine: its refusal without one, and its dry runs, which really run."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnx")

from benchmarks.gpu import parts, queue, wheels  # noqa: E402
from export.verification.audio_cases import speech_like  # noqa: E402
from tests.reference.tiny_marian import checkpoint, text_pairs  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "gpu_name", lambda: "")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("command", ["encoder", "mt", "asr", "from-whisper"])
def test_without_a_gpu_it_says_so_and_does_nothing(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert queue.main([command, "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "no NVIDIA GPU is visible" in message
    assert "--device cpu --tiny" in message
    assert not (tmp_path / "out").exists()


def test_encoder_dry_run_checks_and_times_every_workload(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert queue.main(["encoder", "--device", "cpu", "--tiny", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "encoder.json").read_text())
    assert len(report["rows"]) == 2 * 5 * 2  # models, workloads, systems
    assert all(row["rtfx"] > 0 for row in report["rows"])
    ours = [row for row in report["rows"] if row["system"].startswith("engine")]
    assert all(row["agreement"] > 0.98 and 0 < row["error"] < 0.02 for row in ours)
    printed = capsys.readouterr().out
    assert "tiny:True" in printed
    assert "| large | changing lengths, shared calls | engine fp16 |" in printed


def test_an_encoder_that_differs_is_refused() -> None:
    from benchmarks.gpu.encoder import Workload, compare, make_waves

    waves = make_waves((0.1,))
    systems = {"engine fp16": lambda _: [np.eye(5, dtype=np.float32)]}
    with pytest.raises(RuntimeError, match=r"argmax agreement 0\.0000"):
        compare("base", Workload("x", (0.1,), False), systems, waves, [np.roll(np.eye(5), 1, 1)], 0.1)


def test_translation_dry_run_brings_weights_back_in_parts(tmp_path: Path) -> None:
    pairs = text_pairs()
    (tmp_path / "train.tsv").write_text("\n".join(f"{s}\t{t}\ttest" for s, t in pairs), encoding="utf-8")
    config = tmp_path / "mt.yaml"
    config.write_text(
        f"output_dir: x\ndata:\n  train: [{tmp_path / 'train.tsv'}]\n  dev: {{}}\n"
        "model: {vocab_size: 240, d_model: 16, encoder_layers: 1, decoder_layers: 1, attention_heads: 2,"
        " ffn_dim: 32, max_positions: 128}\n"
        "training: {max_steps: 2, batch_tokens: 256, warmup_steps: 1, gate_tokens: 0}\n"
    )
    command = [sys.executable, "-m", "benchmarks.gpu.queue", "mt", "--device", "cpu", "--tiny"]
    command += ["--out", str(tmp_path / "out"), "--part-mb", "0.01", "--", "--config", str(config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| mt | cpu |" in done.stdout
    parts.join(tmp_path / "out" / "parts", tmp_path / "joined")
    from transformers import MarianMTModel

    model = MarianMTModel.from_pretrained(tmp_path / "joined")
    assert model.config.d_model == 16
    assert (tmp_path / "joined" / "source.spm").is_file()


def test_acoustic_dry_run_brings_weights_back_in_parts(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    rows = ["path\ttext_de"]
    for index, text in enumerate(("ja", "nein", "heute nicht")):
        soundfile.write(tmp_path / f"{index}.wav", speech_like(16_000, 16_000, index), 16_000)
        rows.append(f"{index}.wav\t{text}")
    (tmp_path / "train.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    sizes = "{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64,"
    sizes += " conv_dim: [16, 16], conv_kernel: [400, 4], conv_stride: [160, 2], num_feat_extract_layers: 2,"
    sizes += " num_conv_pos_embeddings: 16, num_conv_pos_embedding_groups: 4}"
    config = tmp_path / "asr.yaml"
    config.write_text(
        f"train: [{tmp_path / 'train.tsv'}]\noutput_dir: x\nscratch: {sizes}\nbf16: false\n"
        "max_steps: 2\nsave_every: 1\naugment: 0.0\nmask_time: 0.0\n"
    )
    arguments = ["asr", "--device", "cpu", "--tiny", "--out", str(tmp_path / "out"), "--", "--config"]
    assert queue.main([*arguments, str(config)]) == 0
    assert parts.join(tmp_path / "out" / "parts", tmp_path / "joined")[0] == "model.safetensors"
    assert (tmp_path / "joined" / "vocab.json").is_file()


def test_parts_come_together_again_and_damage_shows(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    source = checkpoint()
    names = parts.split(source, tmp_path / "parts", 20_000)
    assert sum(name.startswith("weights.fp16.") for name in names) > 2
    parts.join(tmp_path / "parts", tmp_path / "joined")
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "joined"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-3, atol=1e-6)
    (tmp_path / "parts" / "weights.fp16.1").write_bytes(b"other")
    with pytest.raises(ValueError, match="damaged or missing"):
        parts.join(tmp_path / "parts", tmp_path / "again")


def test_carried_packages_are_found_and_one_name_of_onnxruntime_stays(tmp_path: Path) -> None:
    package = tmp_path / "unpacked"
    for name in ("onnxruntime/__init__.py", "onnxruntime_gpu-1.0.dist-info/METADATA"):
        (package / name).parent.mkdir(parents=True)
        (package / name).write_text("x = 1\n")
    with tarfile.open(tmp_path / "ort.tar.xz", "w:xz") as archive:
        for folder in package.iterdir():
            archive.add(folder, folder.name)
    carried = tmp_path / "wheels"
    carried.mkdir()
    content = (tmp_path / "ort.tar.xz").read_bytes()
    for index in range(12):  # more than ten, so that the order of names is not that of numbers
        step = -(-len(content) // 12)
        (carried / f"ort.tar.xz.{index}").write_bytes(content[index * step : (index + 1) * step])
    site = tmp_path / "site"
    site.mkdir()
    wheels.install(carried, site)
    assert [path.name for path in site.iterdir()] == ["onnxruntime"]
    with pytest.raises(FileNotFoundError, match="pip download"):
        wheels.install(site, tmp_path / "site2")

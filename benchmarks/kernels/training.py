"""How fast acoustic training runs on one core: seconds of audio per CPU second, and the share of waiting.

    python -m benchmarks.kernels.training --json benchmarks/results/training.json

The real trainers run on artificial clips (noise with pauses, 3 to 6 s, FLAC) with all parts of a run:
reading, features, batches, forward, backward, clipping, optimiser. Weights are random, of the real sizes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from benchmarks.reports.provenance import provenance
from engine.bundle.signature import cpu_model
from export.acoustic.quiet import quiet_loggers
from training.asr.config import AsrConfig
from training.asr.model import build_model
from training.asr.trainer import AsrTrainer
from training.common.data import build_vocabulary, probe_samples, read_manifest
from training.whisper import command as from_whisper
from training.whisper.log_mel import WhisperTrainer
from training.whisper.states import Clip

WORDS = "heute morgen regnet es in berlin und alle bleiben zu hause weil niemand gern nass wird".split()
WAV2VEC2 = {
    "hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048,
    "conv_dim": [512, 256, 512, 512], "conv_kernel": [400, 1, 3, 3], "conv_stride": [160, 1, 1, 2],
    "num_feat_extract_layers": 4, "feat_extract_norm": "layer", "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 31, "num_conv_pos_embedding_groups": 16, "hidden_dropout": 0.05,
    "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0, "final_dropout": 0.05,
}  # fmt: skip
CONFORMER = {"hidden_size": 320, "n_layers": 10, "n_heads": 5, "intermediate_size": 1024, "dropout": 0.05}
WHISPER_BASE = {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048}


@dataclasses.dataclass
class Clock:
    """CPU and wall time of the steps after the warm-up."""

    warmup: int = 2
    steps: int = 0
    audio_s: float = 0.0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    waited_s: float = 0.0

    def __post_init__(self) -> None:
        self._last = (0.0, 0.0)

    def tick(self, audio_s: float, waited_s: float = 0.0) -> None:
        """End a step."""
        now = (time.process_time(), time.monotonic())
        self.steps += 1
        if self.steps > self.warmup:
            self.audio_s += audio_s
            self.waited_s += waited_s
            self.cpu_s += now[0] - self._last[0]
            self.wall_s += now[1] - self._last[1]
        self._last = now

    def figures(self) -> dict[str, float]:
        """Return what was measured; `x_real_time` uses CPU seconds, which other programs do not change."""
        return {
            "x_real_time": round(self.audio_s / self.cpu_s, 1),
            "x_real_time_wall": round(self.audio_s / self.wall_s, 1),
            "wait_share": round(self.waited_s / self.wall_s, 4), "steps": self.steps - self.warmup,
            "audio_s": round(self.audio_s, 1), "cpu_s": round(self.cpu_s, 2),
        }  # fmt: skip


def write_corpus(folder: Path, n_clips: int) -> Path:
    """Write clips of noise with a speech-like rhythm; returns the manifest."""
    rng, lines = np.random.default_rng(0), ["path\ttext_de"]
    for number in range(n_clips):
        n_samples = int(rng.uniform(3.0, 6.0) * 16_000)
        rhythm = np.abs(np.sin(np.arange(n_samples) / 16_000 * np.pi * 4.0))
        soundfile.write(
            folder / f"{number}.flac", 0.1 * rhythm * rng.standard_normal(n_samples), 16_000, "PCM_16"
        )
        words = rng.choice(WORDS, int(n_samples / 16_000 * 2.3))
        lines.append(f"{number}.flac\t{' '.join(words)}")
    (folder / "m.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "m.tsv"


def time_asr(
    folder: Path, manifest: Path, options: argparse.Namespace, sizes: dict[str, Any]
) -> dict[str, Any]:
    """Time `training asr` from random weights."""
    config = AsrConfig(
        output_dir=folder / "run", train=(manifest,), batch_s=options.batch_s, bf16=options.bf16,
        max_steps=options.steps + 2, epochs=1000, eval_every=10**9, save_every=10**9, mask_time=0.05,
        augment=options.augment, threads=1, device="cpu", **sizes,
    )  # fmt: skip
    vocabulary = build_vocabulary([])
    samples = probe_samples(read_manifest(manifest))
    trainer = AsrTrainer(config, build_model(config, vocabulary), vocabulary, samples, samples[:1])
    clock, honest = Clock(), trainer.step

    def step(pending: Any) -> Any:
        report = honest(pending)
        clock.tick(report.audio_per_s * report.took_s, report.wait_share * report.took_s)
        return report

    trainer.step = step  # type: ignore[method-assign]
    trainer.run()
    return {"parameters": sum(p.numel() for p in trainer.model.parameters()), **clock.figures()}


def time_from_whisper(
    folder: Path, manifest: Path, options: argparse.Namespace, n_frozen: int
) -> dict[str, Any]:
    """Time the log-mel form of `training from-whisper` on stored states, as in its recipe."""
    write_whisper(folder / "whisper")
    parser = argparse.ArgumentParser()
    from_whisper.add_arguments(parser)
    words = ["--whisper", folder / "whisper", "--train", manifest, "--eval", manifest, "--output_dir", folder]
    words += ["--n_frozen", n_frozen, "--batch_s", options.batch_s, *(["--bf16"] if options.bf16 else [])]
    chosen = parser.parse_args([*map(str, words), "--device", "cpu", "--tail_silence_s", "0.5"])
    samples = read_manifest(manifest)
    model = from_whisper.build_model(chosen, samples)
    rng = np.random.default_rng(0)
    clips = [
        Clip(torch.randn(int(n), 512).half(), rng.integers(2, 32, int(n * 0.28)).tolist())
        for n in rng.uniform(150, 300, 60)
    ]
    trainer = WhisperTrainer(chosen, model, clips, samples[:1])
    clock = Clock()
    for number, (_, _, indices) in enumerate(trainer.groups(), 1):
        trainer.step(indices)
        clock.tick(sum(len(clips[index].states) for index in indices) / 50.0)
        if number == options.steps + 2:
            break
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "frozen_layers": n_frozen,
        **clock.figures(),
    }


def write_whisper(folder: Path) -> None:
    """Write a random Whisper of the base size's encoder."""
    from transformers import WhisperConfig, WhisperModel

    sizes = {"decoder_layers": 1, "decoder_attention_heads": 1, "decoder_ffn_dim": 8, "vocab_size": 64}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    WhisperModel(WhisperConfig(**WHISPER_BASE, **sizes, **special)).save_pretrained(folder)


def measure(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name, figures) for each model asked for."""
    for name in options.models:
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made)
            manifest = write_corpus(folder, 80)
            if name in ("wav2vec2", "conformer"):
                sizes = {"scratch": WAV2VEC2} if name == "wav2vec2" else {"conformer": CONFORMER}
                yield name, time_asr(folder, manifest, options, sizes)
            else:
                yield name, time_from_whisper(folder, manifest, options, 4 if name.endswith("upper") else 0)


def main() -> None:
    """Measure, print and, with --json, add the figures to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = ["wav2vec2", "conformer", "log_mel", "log_mel_upper"]
    parser.add_argument("--models", nargs="*", choices=names, default=names)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch_s", type=float, default=30.0)
    parser.add_argument("--augment", type=float, default=0.3)
    parser.add_argument("--fp32", dest="bf16", action="store_false", help="instead of bfloat16")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    signature = {
        "date": datetime.date.today().isoformat(), "cpu": cpu_model(), "threads": 1,
        "torch": torch.__version__,
        "precision": "bf16 autocast, CTC in fp32" if options.bf16 else "fp32", "batch_s": options.batch_s,
        "augmented_share": options.augment, "unit": "seconds of audio trained on per second of CPU",
    }  # fmt: skip
    source = provenance("python -m benchmarks.kernels.training")
    result: dict[str, Any] = {**source, "signature": signature, "models": {}}
    with quiet_loggers("training", "transformers"):
        for name, figures in measure(options):
            result["models"][name] = figures
            print(name, json.dumps(figures), flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Computes a fixed set of results at the active instruction set level, for a test that compares levels.

python -m tests.reference.level_outputs INPUTS OUT.npz [FEATURE]

INPUTS is a folder that `write_inputs` made; it holds whole graphs, so that this program needs neither torch
nor the exporter. FEATURE (a name of LLVM's) is taken from the processor; then only the tiny encoders run.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
RECORDING = ROOT / "examples/audio/visit.flac"
KINDS = {"group norm": 16_000, "stable layer norm": 9_000, "groups of 48": 9_000, "lstm": 200, "sinks": 133}
MARIAN: dict[str, Any] = {
    "activation": "swish", "d_model": 64, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "init_std": 0.1,
}  # fmt: skip
TEXTS = ["guten morgen wo ist der bahnhof", "der hund sucht den garten", "ja"]


def write_inputs(folder: Path) -> None:
    """Graphs and features of tiny encoders, a tiny translator and a tiny second pass; needs torch."""
    from tests.reference import tiny_two_pass
    from tests.reference.tiny_encoders import LOG_MEL, features_for, log_mel_encoder, waveform_encoder
    from tests.reference.tiny_marian import bundle_folder

    for kind, n in KINDS.items():
        mel = kind in LOG_MEL
        encoder = (log_mel_encoder if mel else waveform_encoder)(kind)
        np.save(folder / f"{kind}.npy", features_for("input_features" if mel else "input_values", n, seed=5))
        for precision, graph in encoder.graphs.items():
            (folder / f"{kind}.{precision}.onnx").write_bytes(graph)
    shutil.copytree(bundle_folder("int8", **MARIAN), folder / "marian")
    shutil.copytree(tiny_two_pass.bundle_folder(), folder / "two_pass")


def features() -> dict[str, Any]:
    """Log-mel of noise and of a recording."""
    from engine.acoustic.features import compute_features
    from engine.audio.load import load_audio
    from engine.bundle.folder import open_bundle

    acoustic = open_bundle().manifest.acoustic
    assert acoustic is not None
    noise = 0.1 * np.random.default_rng(0).standard_normal(31_999).astype(np.float32)
    waveforms = {"noise": noise, "speech": load_audio(str(RECORDING))}
    return {name: compute_features(waveform, acoustic.features) for name, waveform in waveforms.items()}


def hypotheses() -> dict[str, Any]:
    """The embedded decoder on invented emissions: texts as code points, scores and times."""
    from engine.bundle.folder import open_bundle
    from engine.decoding.bundled import load_decoder

    decoder = load_decoder(open_bundle())
    found: dict[str, Any] = {}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        rows = rng.dirichlet(np.full(len(decoder.vocabulary), 0.05), 120)
        log_probs = np.log(np.maximum(rows, 1e-12)).astype(np.float32)
        best = decoder.decode(log_probs, beam_width=32)[0]
        times = [(word.start_s, word.end_s, word.confidence) for word in best.words]
        found[f"text {seed}"] = np.array([ord(letter) for letter in best.text])
        found[f"scores {seed}"] = np.array([best.score, best.acoustic_score, best.lm_score])
        found[f"words {seed}"] = np.array(times, np.float64)
    return found


def encoders(inputs: Path) -> dict[str, Any]:
    """Logits of the tiny encoders, in whole numbers and in bfloat16."""
    from engine.native.encoder import NativeEncoder

    found = {}
    for kind in KINDS:
        rows = np.load(inputs / f"{kind}.npy")
        for precision in ("int8", "fp32"):
            graph = (inputs / f"{kind}.{precision}.onnx").read_bytes()
            encoder = NativeEncoder(graph, integers=precision == "int8")
            found[f"{kind}, {precision}"] = encoder.run(rows, threads=2)
    return found


def embedded(mel: dict[str, Any]) -> dict[str, Any]:
    """Log-probabilities, transcript and translation of the embedded bundle."""
    from engine.pipeline import load

    found: dict[str, Any] = {}
    for compute_type in ("int8", "bf16"):
        model = load(device="cpu", backend="kernels", compute_type=compute_type, threads=2)
        for name, rows in mel.items():
            found[f"{name}, {compute_type}"] = model.compute_log_probs(rows)
    said = load(device="cpu", backend="kernels", threads=2).translate(RECORDING)
    found["said"] = np.array([ord(letter) for letter in f"{said.source.text} {said.text}"])
    return found


def translator(bundle: Path | None) -> dict[str, Any]:
    """Log-probabilities of six steps of every sentence at once, each with its best token."""
    from engine.bundle.folder import open_bundle
    from engine.translation.runners import open_runner
    from engine.translation.tokenizer import load_tokenizer
    from engine.types import RuntimeOptions

    opened = open_bundle(bundle)
    config = opened.manifest.translation
    assert config is not None
    runner = open_runner(opened, config, RuntimeOptions(device="cpu", backend="kernels"))
    sources = [[*ids, 0] for ids in load_tokenizer(opened).encode(TEXTS)]
    steps = runner.start(sources, 1, 8, None)
    ids, rows = np.full(len(sources), config.decoder_start_id), np.arange(len(sources))
    found = {}
    for step in range(6):
        found[str(step)] = steps.step(ids, rows, None, None)[:, : config.vocab_size].copy()
        ids = found[str(step)].argmax(axis=1)
    return found


def second_pass(bundle: Path) -> dict[str, Any]:
    """States of noise, a prefill, and steps of several rows, each with its best token."""
    from engine.acoustic.model import AcousticModel
    from engine.bundle.folder import open_bundle
    from engine.two_pass.runners import open_decoder
    from engine.types import RuntimeOptions

    opened, options = open_bundle(bundle), RuntimeOptions(device="cpu", backend="kernels")
    config = opened.manifest.second_pass
    assert config is not None
    acoustic = AcousticModel(opened, options)
    noise = 0.1 * np.random.default_rng(0).standard_normal(31_999).astype(np.float32)
    log_probs, states = acoustic.compute_states(acoustic.compute_features(noise))
    found = {"log_probs": log_probs, "states": states}
    steps = open_decoder(opened, config, options).start(found["states"], 9, 30, None)
    found["prefill"] = steps.prefill(np.arange(14), None).copy()
    n_before = 1
    for n_rows in (1, 5, 9, 3):
        parents = np.arange(n_rows) % n_before
        found[f"{n_rows} rows"] = steps.step(7 * np.arange(n_rows), parents, None).copy()
        n_before = n_rows
    return found


def compute(inputs: Path) -> dict[str, Any]:
    """Everything that the active level computes, by name."""
    from engine.kernels.vector.levels import has_vector_kernels

    mel = features()
    groups = {"log-mel": mel, "decoder": hypotheses()}
    if has_vector_kernels():
        groups |= {
            "tiny encoder": encoders(inputs),
            "embedded": embedded(mel),
            "tiny translator": translator(inputs / "marian"),
            "embedded translator": translator(None),
            "second pass": second_pass(inputs / "two_pass"),
        }
    return name_results(groups)


def name_results(groups: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The results of groups under one name each."""
    return {f"{group}: {name}": value for group, found in groups.items() for name, value in found.items()}


def main() -> None:
    """Write the results."""
    from engine.kernels.vector import levels

    inputs, out, *lacking = sys.argv[1:]
    for name in lacking:
        levels.host_features()[name] = False
    found = name_results({"tiny encoder": encoders(Path(inputs))}) if lacking else compute(Path(inputs))
    np.savez(out, **found, level=np.array(json.dumps(levels.active())))


if __name__ == "__main__":
    main()

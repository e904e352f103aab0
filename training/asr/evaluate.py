"""`training evaluate`: error rates of checkpoints on manifests, by group and by noise, side by side."""

from __future__ import annotations

import argparse
import collections
import csv
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from engine import manifests
from engine.text import NORMALIZER, VOCABULARY, normalize_text
from training.asr import conformer
from training.asr.log_mel_ctc import ARCHITECTURE, load_checkpoint
from training.common.augment import made_noise, mix_at_snr
from training.common.data import ManifestError, Sample, load_waveform, read_manifest
from training.common.mel import compute_log_mel
from training.common.metrics import collapse, compute_error_rates

LOGGER = logging.getLogger("training.asr.evaluate")
Emit = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # waveform -> log_probs [n_frames, vocab]
Decode = Callable[[NDArray[np.float32]], str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `training evaluate`."""
    parser.add_argument(
        "models", type=Path, nargs="+", help="checkpoint folders: LogMelCTC, ConformerCTC, Wav2Vec2ForCTC"
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="manifest; further columns can group the figures"
    )
    parser.add_argument("--by", nargs="*", default=[], help="columns of the manifest, e.g. emotion speaker")
    parser.add_argument(
        "--snr_db", type=float, nargs="*", default=[], help="also with pink noise at these ratios"
    )
    parser.add_argument("--language_model", type=Path, help="KenLM file: also decode with the beam")
    parser.add_argument("--lexicon", type=Path, help="the language model's lexicon file, which loads faster")
    parser.add_argument("--lm_alpha", type=float, default=0.5)
    parser.add_argument("--lm_beta", type=float, default=1.5)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--transcripts", type=Path, help="write what each model understood to this TSV")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--threads", type=int, default=1)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    torch.set_num_threads(options.threads)
    try:
        samples = read_manifest(options.data)[: options.limit]
        groups = read_groups(options.data, options.by, len(samples))
        emitters = {str(model): load_emitter(model) for model in options.models}
    except (ManifestError, OSError, ValueError) as error:
        LOGGER.error("%s", error)
        return 2
    decoders = build_decoders(options)
    figures: dict[str, Any] = {"data": str(options.data), "normalizer": NORMALIZER, "models": {}}
    transcripts: dict[str, list[str]] = {"reference": [normalize_text(sample.text) for sample in samples]}
    for name, emit in emitters.items():
        figures["models"][name] = evaluate_model(
            emit, samples, groups, decoders, options.snr_db, transcripts, name
        )
    print_figures(figures)
    if options.transcripts:
        write_transcripts(transcripts, options.transcripts)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def read_groups(manifest: Path, columns: Sequence[str], n_samples: int) -> dict[str, list[str]]:
    """Return column -> each sample's value.

    Raises:
        ManifestError: no row has one of the columns.
    """
    if not columns:
        return {}
    cells = [row.columns for row in manifests.read_manifest(manifest, split="train")[:n_samples]]
    known = {name for row in cells for name in row}
    missing = [column for column in columns if column not in known]
    if missing:
        has = ", ".join(sorted(known)) or "none besides path and text"
        raise ManifestError(manifest, [f"no column {', '.join(missing)} to group by (it has {has})"])
    return {column: [row.get(column, "") for row in cells] for column in columns}


def load_emitter(folder: Path) -> Emit:
    """Load a checkpoint of either kind as a function from waveform to log-probabilities."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("architecture") == ARCHITECTURE:
        return _load_log_mel(folder)
    return _load_network(folder, config.get("architecture") == conformer.ARCHITECTURE)


def _load_log_mel(folder: Path) -> Emit:
    model = load_checkpoint(folder)

    @torch.inference_mode()
    def emit(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        samples = torch.from_numpy(waveform)
        tail = int(model.config.tail_silence_s * 16_000) + (-samples.numel()) % 320
        features = compute_log_mel(functional.pad(samples, (0, tail)), model.config.n_mels)
        logits = model(features[None])[0, : samples.numel() // 320]
        return np.ascontiguousarray(logits.log_softmax(-1).numpy())

    return emit


def _load_network(folder: Path, is_conformer: bool) -> Emit:
    from transformers import Wav2Vec2ForCTC

    from training.asr.networks import network_of

    loaders: dict[bool, Callable[[Path], Any]] = {
        True: conformer.load_checkpoint,
        False: Wav2Vec2ForCTC.from_pretrained,
    }
    model = loaders[is_conformer](folder).eval()
    network = network_of(model)

    @torch.inference_mode()
    def emit(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        logits, _ = network.compute_logits(model, network.make_batch([waveform], [[]]))
        return np.ascontiguousarray(logits[0].float().log_softmax(-1).numpy())

    return emit


def build_decoders(options: argparse.Namespace) -> dict[str, Decode]:
    """Return the ways to decode: greedy, and with a language model the beam."""
    decoders: dict[str, Decode] = {
        "greedy": lambda log_probs: collapse(log_probs.argmax(-1).tolist(), VOCABULARY)
    }
    if options.language_model:
        from engine.decoding import CtcBeamDecoder

        beam = CtcBeamDecoder(
            VOCABULARY, str(options.language_model), lexicon=options.lexicon,
            lm_alpha=options.lm_alpha, lm_beta=options.lm_beta,
        )  # fmt: skip
        decoders["lm"] = lambda log_probs: beam.decode(log_probs)[0].text
    return decoders


def evaluate_model(
    emit: Emit, samples: Sequence[Sample], groups: dict[str, list[str]], decoders: dict[str, Decode],
    snr_db: Sequence[float], transcripts: dict[str, list[str]], name: str,
) -> dict[str, Any]:  # fmt: skip
    """Return condition -> decoder -> figures; conditions are clean and the noise levels."""
    references = transcripts["reference"]
    result: dict[str, Any] = {}
    for condition in (None, *snr_db):
        emissions = [emit(_load(sample, condition, number)) for number, sample in enumerate(samples)]
        key = "clean" if condition is None else f"{condition:g} dB"
        result[key] = {}
        for decoder, decode in decoders.items():
            texts = [decode(log_probs) for log_probs in emissions]
            result[key][decoder] = _rates(references, texts, groups if condition is None else {})
            if condition is None:
                transcripts[f"{name} ({decoder})"] = texts
    return result


def _load(sample: Sample, snr_db: float | None, number: int) -> NDArray[np.float32]:
    waveform = load_waveform(sample)
    if snr_db is None:
        return waveform
    return mix_at_snr(waveform, made_noise(waveform.size, 1.0, np.random.default_rng(number)), snr_db)


def _rates(references: Sequence[str], texts: Sequence[str], groups: dict[str, list[str]]) -> dict[str, Any]:
    rates = compute_error_rates(references, texts)
    figures: dict[str, Any] = {"wer": round(rates.wer, 2), "cer": round(rates.cer, 2), "n": len(texts)}
    for column, values in groups.items():
        members = collections.defaultdict(list)
        for number, value in enumerate(values):
            members[value].append(number)
        figures[column] = {
            value: _rates([references[i] for i in chosen], [texts[i] for i in chosen], {})
            for value, chosen in sorted(members.items())
        }
    return figures


def print_figures(figures: dict[str, Any]) -> None:
    """Print a table: a line for each model, condition, decoder and group."""
    print(f"{'model':<24} {'condition':<10} {'decoder':<8} {'group':<20} {'n':>5} {'WER %':>7} {'CER %':>7}")
    for model, conditions in figures["models"].items():
        for condition, decoders in conditions.items():
            for decoder, rates in decoders.items():
                start = f"{Path(model).name:<24} {condition:<10} {decoder:<8}"
                print(f"{start} {'all':<20} {rates['n']:>5} {rates['wer']:>7.2f} {rates['cer']:>7.2f}")
                for column in [key for key, value in rates.items() if isinstance(value, dict)]:
                    for value, part in rates[column].items():
                        group = f"{column} {value}"
                        print(f"{start} {group:<20} {part['n']:>5} {part['wer']:>7.2f} {part['cer']:>7.2f}")


def write_transcripts(transcripts: dict[str, list[str]], target: Path) -> None:
    """Write the reference and every model's text side by side, one clip a line."""
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(transcripts)
        writer.writerows(zip(*transcripts.values(), strict=True))

"""`training evaluate`: error rates of checkpoints on manifests, by group and by noise."""

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

from engine import manifests
from engine.text import NORMALIZER, VOCABULARY, normalize_text
from training.asr.emitters import Emitter, load_emitter
from training.asr.evaluation import group_clips
from training.common.augment import made_noise, mix_at_snr
from training.common.data import ManifestError, Sample, load_waveform, probe_samples, read_manifest
from training.common.metrics import collapse, compute_spoken_error_rates
from training.common.ranks import choose_device

LOGGER = logging.getLogger("training.asr.evaluate")
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
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument(
        "--batch_s", type=float, default=60.0, help="padded seconds of audio in a batch (%(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    torch.set_num_threads(options.threads)
    try:
        samples = read_samples(options.data, options.limit)
        groups = read_groups(options.data, options.by, len(samples))
        device = choose_device(options.device)
        emitters = {str(model): load_emitter(model, device) for model in options.models}
    except (ManifestError, OSError, RuntimeError, ValueError) as error:
        LOGGER.error("%s", error)
        return 2
    decoders = build_decoders(options)
    figures: dict[str, Any] = {"data": str(options.data), "normalizer": NORMALIZER, "models": {}}
    transcripts: dict[str, list[str]] = {"reference": [normalize_text(sample.text) for sample in samples]}
    for name, emitter in emitters.items():
        figures["models"][name] = evaluate_model(
            emitter, samples, groups, decoders, options.snr_db, transcripts, name, options.batch_s
        )
    print_figures(figures)
    if options.transcripts:
        write_transcripts(transcripts, options.transcripts)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def read_samples(manifest: Path, limit: int | None) -> list[Sample]:
    """The first `limit` clips of a manifest, with their durations.

    Raises:
        ManifestError: names all missing and unreadable audio files.
    """
    samples = probe_samples(read_manifest(manifest)[:limit])
    problems = [f"{sample.path}: {sample.problem}" for sample in samples if sample.problem]
    if problems:
        raise ManifestError(manifest, problems)
    return samples


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
    emitter: Emitter, samples: Sequence[Sample], groups: dict[str, list[str]], decoders: dict[str, Decode],
    snr_db: Sequence[float], transcripts: dict[str, list[str]], name: str, batch_s: float,
) -> dict[str, Any]:  # fmt: skip
    """Return condition -> decoder -> figures; conditions are clean and the noise levels."""
    references = [sample.text for sample in samples]
    result: dict[str, Any] = {}
    for condition in (None, *snr_db):
        emissions = compute_emissions(emitter, samples, condition, batch_s)
        key = "clean" if condition is None else f"{condition:g} dB"
        result[key] = {}
        for decoder, decode in decoders.items():
            texts = [decode(log_probs) for log_probs in emissions]
            result[key][decoder] = _rates(references, texts, groups if condition is None else {})
            if condition is None:
                transcripts[f"{name} ({decoder})"] = texts
    return result


def compute_emissions(
    emitter: Emitter, samples: Sequence[Sample], snr_db: float | None, batch_s: float
) -> list[NDArray[np.float32]]:
    """Log-probabilities [n_frames, vocab_size] of each clip, in order, the same as of the clip alone.

    Args:
        snr_db: signal-to-noise ratio of added pink noise; None adds none.
        batch_s: padded seconds of audio in a batch.
    """

    def load(place: int) -> NDArray[np.float32]:
        waveform = load_waveform(samples[place])
        if snr_db is None:
            return waveform
        return mix_at_snr(waveform, made_noise(waveform.size, 1.0, np.random.default_rng(place)), snr_db)

    emissions: dict[int, NDArray[np.float32]] = {}
    for places, waveforms in group_clips(samples, batch_s, emitter.equal, load):
        emissions.update(zip(places, emitter.emit(waveforms), strict=True))
    return [emissions[place] for place in range(len(samples))]


def _rates(references: Sequence[str], texts: Sequence[str], groups: dict[str, list[str]]) -> dict[str, Any]:
    rates = compute_spoken_error_rates(references, texts)
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
    """Write a line for each clip: the reference and every model's text."""
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(transcripts)
        writer.writerows(zip(*transcripts.values(), strict=True))

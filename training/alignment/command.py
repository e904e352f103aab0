"""`engine-train align`: long recordings with approximate text, cut into utterances for training.

The text is expanded to what may have been said, and aligned with the emissions of a recogniser; the alignment
may leave out text and skip speech. It is cut at pauses; utterances are accepted where speech and text agree.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import engine
from engine.audio.parts import load_part
from engine.audio.vad import Waveform
from engine.bundle.signature import bundle_digest
from engine.errors import AudioError, OptionError
from engine.output.targets import check_apart
from training.alignment.anchors import AlignmentError
from training.alignment.corpus import CorpusFolder, fingerprint
from training.alignment.cutting import Cut, CutOptions, Progress, cut_recording
from training.alignment.recordings import Recording, choose_held_out, read_recordings

WRITTEN = ("audio", "records", "train.tsv", "held_out.tsv")  # in the output folder
LOGGER = logging.getLogger("training.alignment.command")
NOT_FOUND, UNREADABLE = "text not found", "unreadable audio"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `engine-train align`."""
    default = CutOptions()
    parser.add_argument("--data", type=Path, required=True, help="manifest of the recordings and their texts")
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="folder to write audio/, train.tsv and held_out.tsv to"
    )
    parser.add_argument(
        "--model", metavar="PATH", help="bundle that recognises the speech (default: the embedded one)"
    )
    parser.add_argument(
        "--keep_out", nargs="+", default=[], metavar="NAME",
        help="recordings, by name, path or speaker, for held_out.tsv instead of train.tsv; "
        "patterns such as 'talk_*' work too",
    )  # fmt: skip
    parser.add_argument("--min_s", type=float, default=default.min_s, help="shortest utterance (%(default)s)")
    parser.add_argument("--max_s", type=float, default=default.max_s, help="longest utterance (%(default)s)")
    parser.add_argument(
        "--min_score", type=float, default=default.min_score,
        help="least score of the text against the model's free transcript, nats per letter (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--min_word_score", type=float, default=default.min_word_score,
        help="the same for each word (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--min_agreement", type=float, default=default.min_agreement,
        help="share of letters on which free decoding and text agree (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--skip_bad", action="store_true", help="leave unusable recordings out with a warning"
    )
    parser.add_argument("--threads", type=int, default=1)


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    settings = check_options(options)
    recordings = read_recordings(options.data, options.skip_bad)
    check_apart(
        [options.output_dir / name for name in WRITTEN],
        [options.data, *(recording.path for recording in recordings)],
    )
    held_out = choose_held_out(recordings, options.keep_out)
    model = engine.load(options.model, threads=options.threads)
    folder = CorpusFolder(options.output_dir)
    records = Cutter(model, settings, folder, options.skip_bad).cut_all(recordings)
    parts: dict[str, list[str]] = {"train": [], "held_out": []}
    for recording in recordings:
        parts["held_out" if recording.name in held_out else "train"].append(recording.name)
    for part, names in parts.items():
        if names:
            folder.write_manifest(part, [row for name in names for row in records[name]["rows"]])
        else:
            folder.remove_manifest(part)
    for line in report(records, parts):
        LOGGER.info("%s", line)
    return 0


def check_options(options: argparse.Namespace) -> CutOptions:
    """The settings of a run.

    Raises:
        OptionError: impossible values; the message names all of them.
    """
    problems = []
    if not 0.1 <= options.min_s < options.max_s <= 600.0:
        problems.append(f"--min_s {options.min_s:g} and --max_s {options.max_s:g}")
    for name in ("min_score", "min_word_score"):
        if not getattr(options, name) <= 0.0:
            problems.append(f"--{name} {getattr(options, name):g}")
    if not 0.0 <= options.min_agreement <= 1.0:
        problems.append(f"--min_agreement {options.min_agreement:g}")
    if options.threads < 0:
        problems.append(f"--threads {options.threads}")
    if problems:
        raise OptionError(
            ", ".join(problems), "0.1 <= min_s < max_s <= 600, scores of at most 0, an agreement from 0 to 1",
            "correct these options",
        )  # fmt: skip
    return CutOptions(
        options.min_s, options.max_s, options.min_score, options.min_word_score, options.min_agreement
    )


class Cutter:
    """Cuts recordings one after another; those that an earlier run has finished are not cut again."""

    def __init__(self, model: Any, settings: CutOptions, folder: CorpusFolder, skip_bad: bool) -> None:
        self.model, self.settings, self.folder, self.skip_bad = model, settings, folder, skip_bad
        self._signature = f"{model.bundle.name}@{bundle_digest(model.bundle)}"

    def cut_all(self, recordings: Sequence[Recording]) -> dict[str, dict[str, Any]]:
        """Cut every recording that is not cut already; returns the records by name."""
        from tqdm import tqdm

        self.folder.remove_partial()
        records: dict[str, dict[str, Any]] = {}
        done_s = 0.0
        total_s = sum(recording.duration_s for recording in recordings)
        with tqdm(total=round(total_s), unit="s", desc="align", disable=None) as bar:
            for number, recording in enumerate(recordings, 1):
                record, note = self._find_or_cut(recording, partial(_move, bar, done_s))
                done_s += recording.duration_s
                _move(bar, done_s, 0.0)
                records[recording.name] = record
                LOGGER.info(
                    "%d/%d %s: %.1f of %.1f s in %d utterances%s", number, len(recordings), recording.name,
                    _kept_s(record), record["duration_s"], len(record["rows"]), note,
                )  # fmt: skip
        return records

    def _find_or_cut(self, recording: Recording, progress: Progress) -> tuple[dict[str, Any], str]:
        digest = fingerprint(recording, self.settings, self._signature)
        record = self.folder.read_record(recording.name, digest)
        if record is not None:
            return record, ", already there"
        for part in ("train", "held_out"):
            self.folder.remove_manifest(part)  # it may name clips that are about to change
        waveform, cut = self._cut(recording, progress)
        rate = self.model.acoustic.sample_rate
        return self.folder.write_recording(recording, waveform, rate, cut, digest), ""

    def _cut(self, recording: Recording, progress: Progress) -> tuple[Waveform, Cut]:
        """A recording's waveform and utterances; no utterances where its text is not found in it."""
        try:
            waveform = load_part(recording.path, recording.offset_s, recording.part_s)
        except AudioError as error:
            if not self.skip_bad:
                raise
            LOGGER.warning("%s: %s", recording.name, error)
            return np.zeros(0, np.float32), Cut([], {UNREADABLE: recording.duration_s})
        try:
            return waveform, cut_recording(self.model, waveform, recording.text, self.settings, progress)
        except AlignmentError as error:
            LOGGER.warning("%s: %s", recording.name, error)
            return waveform, Cut([], {NOT_FOUND: len(waveform) / self.model.acoustic.sample_rate})


def _move(bar: Any, before_s: float, done_s: float) -> None:
    bar.n = min(round(before_s + done_s), bar.total)
    bar.refresh()


def _kept_s(record: dict[str, Any]) -> float:
    return sum(float(row["duration_s"]) for row in record["rows"])


def report(records: dict[str, dict[str, Any]], parts: dict[str, list[str]]) -> list[str]:
    """Report how much was accepted, and why the rest was dropped, one line each.

    Args:
        records: by recording. parts: names of recordings by manifest.
    """
    total_s = sum(record["duration_s"] for record in records.values())
    lines: list[str] = []
    for part, names in parts.items():
        rows = [row for name in names for row in records[name]["rows"]]
        kept_s, part_s = sum(_kept_s(records[n]) for n in names), sum(records[n]["duration_s"] for n in names)
        if names:
            score, agreement = _mean(rows, "score"), _mean(rows, "agreement")
            lines.append(
                f"{part}: {kept_s / 60:.1f} of {part_s / 60:.1f} min of {len(names)} recordings in "
                f"{len(rows)} utterances, score {score:.2f}, agreement {agreement:.2f}"
            )
    dropped_s: defaultdict[str, float] = defaultdict(float)
    for record in records.values():
        for reason, seconds in record["dropped_s"].items():
            dropped_s[reason] += seconds
    for reason, seconds in sorted(dropped_s.items(), key=lambda item: -item[1]):
        if seconds >= 0.05:
            lines.append(f"dropped, {reason}: {seconds / 60:.1f} min ({100 * seconds / total_s:.0f} %)")
    return lines


def _mean(rows: Sequence[dict[str, str]], column: str) -> float:
    """The mean of a column, weighted by length."""
    weights = [float(row["duration_s"]) for row in rows]
    values = [float(row[column]) for row in rows]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights) if rows else math.nan

"""`engine-bench text --against FOLDER`: two translators side by side on the same texts.

The other one is a bundle, or a Marian checkpoint such as opus-mt-de-en, which transformers runs in a process
of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks.errors import BenchmarkError, PeerError
from benchmarks.measures.bootstrap import statistic_difference
from benchmarks.measures.faithfulness import count_faithfulness
from benchmarks.measures.metrics import TranslationScorer, bleu_from_counts
from benchmarks.measures.text_system import TextSystem, open_text_system
from benchmarks.protocol.client import PeerProcess
from engine.types import DecodingOptions

SCRIPT = Path(__file__).parents[1] / "peers" / "translators" / "marian_text.py"
OURS, OTHER = "engine", "against"
Sources = dict[str, list[str]]
Timed = tuple[list[str], float]  # translations, CPU seconds of all


class Timeable(Protocol):
    """A translator that tells the CPU time it took."""

    signature: str

    def translate(self, texts: Sequence[str], beam_size: int) -> Timed:
        """Translate German texts, each whole."""

    def close(self) -> None:
        """End it."""


class OfBundle:
    """A bundle's translator, in this process."""

    def __init__(self, system: TextSystem) -> None:
        self._system, self.signature = system, system.signature

    def translate(self, texts: Sequence[str], beam_size: int) -> Timed:
        """See Timeable."""
        began = time.process_time()
        english = self._system.translate_text(texts, DecodingOptions(translation_beam_size=beam_size))
        return english, time.process_time() - began

    def close(self) -> None:
        """Nothing to end."""


class OfCheckpoint:
    """A Marian checkpoint, by transformers in a process of its own."""

    def __init__(self, folder: Path, threads: int, python: str) -> None:
        """Start and load it.

        Raises:
            PeerError: transformers is not installed there, or the checkpoint cannot be loaded.
        """
        self._process = PeerProcess(
            SCRIPT, python=python, arguments=["--checkpoint", str(folder)], threads=threads
        )
        self._process.load()
        self.signature = f"{self._process.signature}|model:{folder.name}"

    def translate(self, texts: Sequence[str], beam_size: int) -> Timed:
        """See Timeable; the time is from its own clock."""
        inputs = {"texts": list(texts), "beam_size": beam_size}
        answer = self._process.run(self._process.capabilities[0], inputs)
        english = answer.outputs.get("texts")
        if not isinstance(english, list) or len(english) != len(texts):
            raise PeerError(f"{self._process.name} gave no text for each", f"{len(texts)} texts")
        return english, answer.cpu_s

    def close(self) -> None:
        """End the process."""
        self._process.close()


def open_other(folder: Path, threads: int, python: str) -> Timeable:
    """What a folder holds.

    Raises:
        BenchmarkError: neither a bundle nor a checkpoint. PeerError: see OfCheckpoint. BundleError and its
            kinds.
    """
    if (folder / "manifest.json").is_file():
        return OfBundle(open_text_system(folder, threads))
    if not (folder / "config.json").is_file():
        raise BenchmarkError(
            f"--against {folder} holds neither manifest.json nor config.json",
            "the folder of a bundle, or of a Marian checkpoint such as opus-mt-de-en",
            "download one and name its folder",
        )
    return OfCheckpoint(folder, threads, python)


def compare_text(
    ours: Timeable, other: Timeable, sets: dict[str, tuple[list[str], Sources]], beam_size: int,
    tick: Callable[[], object] = lambda: None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Score two translators, set by set and source by source, in turn.

    Args:
        sets: by name, English references and German texts by source.
    Yields:
        For each the two rows: system, set, source, beam_size, sentences, bleu, chrf, cpu_ms a sentence, the
        counts of Faithfulness; in the second also bleu_difference, other minus ours, with its paired 95 %
        interval.
    """
    scorer = TranslationScorer()
    for name, (references, sources) in sets.items():
        for source, texts in sources.items():
            counted = []
            for label, system in ((OURS, ours), (OTHER, other)):
                english, cpu_s = system.translate(texts, beam_size)
                counted.append(_count(scorer, english, references))
                row = {
                    "system": label, "set": name, "source": source, "beam_size": beam_size,
                    "sentences": len(texts), "bleu": round(scorer.bleu(english, references), 2),
                    "chrf": round(scorer.chrf(english, references), 2),
                    "cpu_ms": round(1000 * cpu_s / len(texts), 2),
                    **count_faithfulness(sources.get("written", texts), english, references).as_row(),
                }  # fmt: skip
                if label == OTHER:
                    change = statistic_difference(counted[1], counted[0], bleu_from_counts)
                    value = float(bleu_from_counts(counted[1].sum(0)) - bleu_from_counts(counted[0].sum(0)))
                    row["bleu_difference"] = [round(each, 2) for each in (value, change.low, change.high)]
                yield row
                tick()


def _count(scorer: TranslationScorer, english: Sequence[str], references: Sequence[str]) -> Any:
    pairs = zip(english, references, strict=True)
    return np.array([scorer.count(got, wanted).as_row() for got, wanted in pairs], np.int64)

"""Compares the graphs of a bundle before and after their weights were rounded again, on the same inputs.

Both run in each way in which the engine may run them: with onnxruntime and with its own kernels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle.folder import Bundle
from engine.bundle.schema import TranslationConfig
from engine.translation.search import EncoderDecoder, Runner
from engine.translation.tokenizer import load_tokenizer
from export.errors import ExportError
from export.quantization.exactness import EVERYWHERE
from export.translation.marian import CALIBRATION
from export.translation.runners import open_kernels, open_sessions
from export.verification.audio_cases import build_cases
from export.verification.kernel_check import kernel_run
from export.verification.verify import compare, onnx_run, with_logits

PARTS = {"acoustic": ("acoustic",), "translation": ("mt_encoder", "mt_decoder")}
# Rounding twice costs about as much as rounding once. Above this, a graph has changed too much.
MAX_ERROR = 0.1
MIN_AGREEMENT = 0.95
SUMMARY = """\
`engine-export pair-safe` has rounded integer weights of this bundle again, from their own codes, so that
the codes of neighbouring inputs add up to at most 128 in magnitude. Columns whose codes did so before are
unchanged, and so is everything else except the scales. Figures above this section were measured with the
earlier codes, unless they say otherwise."""
CASES = """\
New against old. Acoustic: logits of signals like speech, five lengths, clean, with white and with red noise.
Translation: log-probabilities of the tokens that the old translator gives for German sentences."""
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """One part, run in one way.

    Attributes:
        error: relative L2 error of new logits or log-probabilities against the old ones, over all cases.
        agreement: share of frames, or of tokens, with the same argmax.
    """

    part: str
    backend: str
    n_cases: int
    error: float
    agreement: float


@dataclass(frozen=True)
class Comparison:
    """What changed.

    Attributes:
        columns: role to (columns with new codes, columns that integer products read).
    """

    columns: Mapping[str, tuple[int, int]]
    rows: tuple[Row, ...]

    def figures(self, part: str) -> dict[str, Any]:
        """For a part of the manifest; empty where nothing in it changed."""
        columns = {
            role: list(self.columns[role]) for role in PARTS[part] if self.columns.get(role, (0, 0))[0]
        }
        rows = {row.backend: asdict(row) for row in self.rows if row.part == part}
        for row in rows.values():
            del row["part"], row["backend"]
        return {"columns": columns, **rows} if columns else {}

    def table(self) -> list[str]:
        """Lines of Markdown."""
        lines = ["| graph | columns rounded again | of |", "|---|---:|---:|"]
        lines += [f"| {role} | {changed} | {total} |" for role, (changed, total) in self.columns.items()]
        lines += [
            "",
            "| part | run by | cases | relative L2 error | same argmax |",
            "|---|---|---:|---:|---:|",
        ]
        return lines + [
            f"| {row.part} | {row.backend} | {row.n_cases} | {row.error:.2g} | {100 * row.agreement:.2f} % |"
            for row in self.rows
        ]

    def card(self) -> list[str]:
        """A section of a model card."""
        return [
            "## Pair-safe weights", "", SUMMARY, "",
            f"Integer products of these graphs are exact on: {EVERYWHERE}.", "", *self.table(), "",
            CASES,
        ]  # fmt: skip


def compare_bundles(old: Bundle, new: Bundle, columns: Mapping[str, tuple[int, int]]) -> Comparison:
    """Compare what changed.

    Args:
        columns: as in Comparison.
    Raises:
        ExportError: the new graphs are too far from the old ones.
    """
    changed = {role for role, (n_changed, _) in columns.items() if n_changed}
    rows: list[Row] = []
    if "acoustic" in changed:
        rows += _compare_acoustic(old, new)
    if changed.intersection(PARTS["translation"]):
        rows += _compare_translation(old, new)
    bad = [row for row in rows if not (row.error <= MAX_ERROR and row.agreement >= MIN_AGREEMENT)]
    if bad:
        shown = "; ".join(
            f"{r.part}, {r.backend}: error {r.error:.3f}, agreement {r.agreement:.3f}" for r in bad
        )
        raise ExportError(
            f"rounding the weights again changes too much: {shown}",
            f"an error of at most {MAX_ERROR} and an agreement of at least {MIN_AGREEMENT}",
            "export the checkpoint again, which rounds its weights once",
        )
    return Comparison(columns, tuple(rows))


def _compare_acoustic(old: Bundle, new: Bundle) -> Iterator[Row]:
    config = old.manifest.acoustic
    if config is None:
        raise ExportError("an acoustic graph that the manifest does not describe", "a whole bundle")
    cases = build_cases(config)
    openers: dict[str, Callable[[bytes], Any]] = {"onnxruntime": onnx_run, "kernels": kernel_run}
    for backend, opener in openers.items():
        before, after = opener(old.read("acoustic")), opener(new.read("acoustic"))
        if before is None and after is None:
            continue
        if before is None or after is None:
            raise ExportError(
                "the kernels compute one of the old and the new acoustic graph", "both", "report it"
            )
        yield Row("acoustic", backend, len(cases), *compare(after, with_logits(cases, before)))


def _compare_translation(old: Bundle, new: Bundle) -> Iterator[Row]:
    config = old.manifest.translation
    if config is None:
        raise ExportError("a translator that the manifest does not describe", "a whole bundle")
    encoded = load_tokenizer(old).encode(CALIBRATION)
    sources = [[*ids[: config.max_source_tokens - 1], config.eos_id] for ids in encoded]
    for backend, opener in {"onnxruntime": open_sessions, "kernels": open_kernels}.items():
        before, after = (opener(_folder(bundle), config) for bundle in (old, new))
        if before is None and after is None:
            continue
        if before is None or after is None:
            raise ExportError(
                "the kernels compute one of the old and the new translator", "both", "report it"
            )
        yield compare_runners(backend, before, after, sources, config)


def _folder(bundle: Bundle) -> Path:
    return bundle.file("mt_encoder").parent


def compare_runners(
    backend: str, before: Runner, after: Runner, sources: Sequence[Sequence[int]], config: TranslationConfig
) -> Row:
    """Both score the tokens that the old one gives."""
    search = EncoderDecoder(before, config)
    squared_error = squared_norm = 0.0
    same: list[NDArray[np.bool_]] = []
    for source in sources:
        limit = min(config.max_target_tokens, 2 * len(source) + 10)
        best = search.generate([source], [limit], beam_size=1, length_penalty=1.0)[0][0]
        score = functools.partial(_log_probs, source=source, tokens=best.tokens, config=config)
        want, got = score(before), score(after)
        finite = np.isfinite(want) & np.isfinite(got)
        squared_error += float(((got - want)[finite] ** 2).sum())
        squared_norm += float((want[finite] ** 2).sum())
        same.append((got.argmax(-1) == want.argmax(-1)) & (np.isfinite(want) == np.isfinite(got)).all(-1))
    error = float(np.sqrt(squared_error / max(squared_norm, 1e-30)))
    return Row("translation", backend, len(sources), error, float(np.concatenate(same).mean()))


def _log_probs(
    runner: Runner, source: Sequence[int], tokens: Sequence[int], config: TranslationConfig
) -> FloatArray:
    """Log-probabilities [n_steps, vocab] along a given translation, one step more than it has tokens."""
    inputs = [config.decoder_start_id, *tokens][: config.max_target_tokens]
    steps, row = runner.start([source], 1, len(inputs), None), np.zeros(1, np.int64)
    found = [
        np.array(steps.step(np.array([token], np.int64), row, None, None)[0, : config.vocab_size])
        for token in inputs
    ]
    return np.stack(found).astype(np.float32)

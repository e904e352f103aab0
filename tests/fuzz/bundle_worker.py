"""The process that loads damaged bundles: it may die, and what it takes is measured."""

from __future__ import annotations

import gc
import math
import resource
import time
import traceback
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from engine.bundle.folder import open_bundle
from engine.cli.info import describe_bundle
from engine.errors import EngineError
from engine.output.formats import render
from engine.pipeline import SpeechTranslator
from engine.types import DecodingOptions, RuntimeOptions
from tests.fuzz.lines import LineCounter

MODULES = (
    "engine.bundle.bare", "engine.bundle.folder", "engine.bundle.json_file", "engine.bundle.layout",
    "engine.decoding.arpa", "engine.decoding.kenlm_layout", "engine.decoding.lexicon",
    "engine.decoding.ngram", "engine.native.encoder", "engine.native.heads",
    "engine.native.layers", "engine.native.marian",
    "engine.native.packing", "engine.native.positions", "engine.native.seq2seq_parts", "engine.native.stems",
    "engine.native.two_pass", "engine.native.weights", "engine.output.punctuation",
    "engine.runtime.onnx_file",
    "engine.runtime.protobuf", "engine.translation.runners", "engine.translation.tokenizer",
    "engine.translation.tokenizer_file", "engine.two_pass.confidence", "engine.two_pass.graph_shapes",
    "engine.two_pass.runners", "engine.two_pass.spelling", "engine.two_pass.tokens",
)  # fmt: skip
# What writes files, and what is called by training and export alone.
WRITERS = ("write_bundle", "_check_sources", "_copy_in", "_swap", "save", "encode_layout",
           "with_metadata", "write_field", "build_lexicon", "_encode", "_list_words", "_resolve")  # fmt: skip
RATE, CLIP_S = 16_000, 0.8
TEXTS = ["Der Hund sucht den Garten.", "xyz öl 7"]


def make_clip() -> Any:
    """Something that is taken for speech, float32 [n_samples]."""
    rng = np.random.default_rng(0)
    times = np.arange(int(CLIP_S * RATE)) / RATE
    tones = sum(np.sin(2 * np.pi * hz * times + rng.normal()) for hz in (200, 400, 600, 900, 1500, 2300))
    return (0.05 * tones * (1 + np.sin(20 * times)) + 0.01 * rng.normal(size=len(times))).astype(np.float32)


def use(folder: Path, wanted: Mapping[str, Any], clip: Any) -> None:
    """Load a bundle and do with it what is wanted: "backend", "translate" and "describe".

    Raises:
        EngineError: it cannot be used. AssertionError: a result that cannot be one.
    """
    bundle, backend = open_bundle(folder), wanted["backend"]
    if wanted["describe"]:
        describe_bundle(bundle)
    options = RuntimeOptions(device="cpu", threads=1, backend=backend)  # type: ignore[arg-type]
    model = SpeechTranslator(bundle, options)
    for passes in (1, 2) if model.has_second_pass else (1,):
        settings = DecodingOptions(passes=passes, vad_filter=False, hotwords=["zug"])  # type: ignore[arg-type]
        transcript = model.transcribe(clip, RATE, options=settings)
        _check_times(transcript.segments, transcript.duration_s)
        for segment in transcript.segments:
            _check_times(segment.words, transcript.duration_s)
        for form in ("json", "srt", "txt"):
            render(transcript, form).encode()
    if wanted["translate"] and bundle.has("mt_encoder"):
        for text in model.translate_text(TEXTS):
            text.encode()
        render(model.translate_transcript(transcript), "json").encode()
    assert model.signature.encode()


def _check_times(parts: Any, duration_s: float) -> None:
    for part in parts:
        assert 0 <= part.start_s <= part.end_s <= duration_s + 0.05, (part, duration_s)
        assert 0 <= part.confidence <= 1, part
        assert part.text.encode() is not None
        assert math.isfinite(part.start_s)


def run_case(folder: Path, wanted: Mapping[str, Any], clip: Any) -> dict[str, Any]:
    """Outcome, and what it took: seconds by the clock and of the processor, MB more than before."""
    gc.collect()  # of the case before; what was imported is frozen
    held = _reset_peak()
    wall, cpu = time.monotonic(), time.process_time()
    outcome, said = "used", ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            use(folder, wanted, clip)
    except EngineError as error:
        outcome, said = type(error).__name__, str(error)
        if not error.got or len(said) > 20_000:
            outcome = "!message"
    except Exception as error:  # what this is for
        outcome, said = f"!{type(error).__name__}", traceback.format_exc()[-3000:]
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    return {"outcome": outcome, "said": said, "wall_s": wall, "cpu_s": cpu, "growth_mb": _peak_mb() - held}


def _reset_peak() -> float:
    """Forget the peak of memory where the system lets us; what is held now, MB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak_mb()
    return _status("VmRSS")


def _peak_mb() -> float:
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _status(name: str) -> float:
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    return next(float(line.split()[1]) / 1024 for line in text.split("\n") if line.startswith(name))


def serve(connection: Connection, folder: str) -> None:
    """Answer what is wanted with run_case's result and the lines that are new, until it is None."""
    clip, lines = make_clip(), LineCounter(MODULES, WRITERS)
    sent: dict[str, set[int]] = {path: set() for path in lines.seen}
    gc.collect()
    gc.freeze()
    while (wanted := connection.recv()) is not None:
        with lines.recording() if wanted["traced"] else nullcontext():
            found = run_case(Path(folder), wanted, clip)
        found["lines"] = _unsent(lines.seen, sent)
        connection.send(found)


def _unsent(seen: Mapping[str, set[int]], sent: dict[str, set[int]]) -> dict[str, list[int]]:
    new = {path: sorted(lines - sent[path]) for path, lines in seen.items() if lines - sent[path]}
    for path, lines in new.items():
        sent[path].update(lines)
    return new

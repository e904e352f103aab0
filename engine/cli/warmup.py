"""`engine warmup`: compile now what the first recording would wait for."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.cli.settings import load_model
from engine.cli.terminal import progress_bar, say
from engine.errors import OutputError
from engine.kernels._disk_cache import find_cache
from engine.kernels.precompile import compile_ahead
from engine.runtime.cores import available_cores
from engine.types import DecodingOptions

SAMPLE_RATE = 16_000


def run_warmup(options: argparse.Namespace) -> int:
    """Compile the kernels of a model for this processor, and the listed ones for other levels."""
    places = find_cache()
    if places.own is None:
        raise OutputError(
            "no folder can hold compiled kernels", "one that can be written", "set NUMBA_CACHE_DIR to one"
        )
    started = time.perf_counter()
    if options.levels:
        compile_levels(places.own.parent, options.levels)
    use_model(options)
    say(f"kernels are ready, after {time.perf_counter() - started:.1f} s")
    for folder in places:
        if folder is not None:
            say(f"  {folder}: {sum(1 for _ in folder.glob('*.nbc'))} kernels")
    return 0


def compile_levels(place: Path, names: Sequence[str]) -> None:
    """Compile what is listed for each level, with a bar."""
    with progress_bar(None, "kernel") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        compile_ahead(place, names, available_cores(), show)


def use_model(options: argparse.Namespace) -> None:
    """Call every stage of a model once, on noise and one word."""
    translator = load_model(options)
    noise = np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE).astype(np.float32) * np.float32(0.1)
    settings = DecodingOptions(vad_filter=False)
    translator.transcribe(noise, SAMPLE_RATE, options=settings)
    translator.transcribe(noise, SAMPLE_RATE, options=settings, hotwords=["ja"])
    translator.transcribe(noise, SAMPLE_RATE, options=DecodingOptions(vad_filter=False, beam_width=1))
    if translator.bundle.manifest.translation is not None:
        for beam_size in (1, None):
            translator.translate_text(["ja"], DecodingOptions(translation_beam_size=beam_size))

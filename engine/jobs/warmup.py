"""Compile every kernel when a model is loaded, and say so when that takes a while."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numba.core.event import Event, Listener, install_listener

from engine.acoustic.model import AcousticModel
from engine.bundle.folder import Bundle, open_bundle
from engine.decoding import CtcBeamDecoder
from engine.decoding.bundled import load_decoder
from engine.kernels._disk_cache import find_cache
from engine.kernels.ctc.batch import search_several
from engine.translation.translator import Translator
from engine.types import DecodingOptions

if TYPE_CHECKING:
    from engine.two_pass.second_pass import SecondPass

NOTICE_AFTER_S = 1.5
COMPILE_S = 900  # it takes half a minute
COMPILING = "compiling kernels for this processor, once; it takes half a minute, on a single core one"
UNCACHED = (
    "compiling kernels, in every process anew since no folder can hold them; "
    "fix: set NUMBA_CACHE_DIR to one that can be written"
)
_BESIDE = (
    "import sys; sys.path.insert(0, sys.argv[1]); from engine.jobs.warmup import compile_decoder; "
    "compile_decoder(sys.argv[2])"
)
logger = logging.getLogger("engine")


@contextmanager
def notice(message: str, after_s: float = NOTICE_AFTER_S) -> Iterator[None]:
    """Log a message when the block has compiled for after_s seconds; loading compiled code is silent."""
    timer = threading.Timer(after_s, _say_once, (message,))
    timer.daemon = True
    try:
        with install_listener("numba:compile", _Starts(timer)):
            yield
    finally:
        timer.cancel()


class _Starts(Listener):
    """Starts a timer when numba begins to compile."""

    def __init__(self, timer: threading.Timer) -> None:
        self._timer = timer

    def on_start(self, event: Event) -> None:
        """numba compiles a function; several threads may."""
        with suppress(RuntimeError):  # it runs already
            self._timer.start()

    def on_end(self, event: Event) -> None:
        """Nothing: the next one may follow."""


@cache
def _say_once(message: str) -> None:
    logger.warning(message)


@contextmanager
def compile_beside(bundle: Bundle, threads: int) -> Iterator[None]:
    """Compile the decoder's kernels in another process while the block compiles others.

    Compiling holds a lock, so threads would gain nothing. Where the kernels are cached, or one core is all
    there is, or no interpreter can be started, nothing happens.
    """
    process = _start_compiling(bundle) if threads > 1 and not _decoder_is_compiled() else None
    try:
        yield
    except BaseException:
        if process is not None:
            process.kill()
        raise
    if process is not None:
        _wait(process)


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Where it takes too long, this process compiles by itself."""
    try:
        process.wait(COMPILE_S)
    except subprocess.TimeoutExpired:
        process.kill()
    except BaseException:
        process.kill()
        raise


def _compiling() -> str:
    return COMPILING if find_cache().own else UNCACHED


def _decoder_is_compiled() -> bool:
    """Whether the cache holds the search; True where there is no cache to hold it."""
    places = find_cache()
    pattern = f"*{search_several.__name__}*.nbi"
    return places.own is None or any(place and any(place.glob(pattern)) for place in places)


def _start_compiling(bundle: Bundle) -> subprocess.Popen[bytes] | None:
    if not Path(sys.executable or "").name.startswith("python"):
        return None  # an embedded interpreter: the executable is some other program
    # No -m: that would look for a package called engine in the working directory first.
    command = [sys.executable, "-P", "-c", _BESIDE, str(Path(__file__).parents[2]), str(bundle.source)]
    with suppress(OSError):
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    return None


def warm_up_acoustic(acoustic: AcousticModel) -> None:
    """Run features and our own encoder kernels once, so that the first request does not pay for compiling.

    From numba's cache this takes milliseconds; without it, once per machine, about half a minute.
    """
    with notice(_compiling()):
        features = acoustic.compute_features(np.zeros(acoustic.sample_rate // 2, np.float32))
        if acoustic.encoder.backend == "kernels":
            acoustic.compute_log_probs(features)


def warm_up_decoder(decoder: CtcBeamDecoder) -> None:
    """Decode four frames, for the same reason."""
    with notice(_compiling()):
        n_tokens = len(decoder.vocabulary)
        log_probs = np.full((4, n_tokens), -np.log(n_tokens), np.float32)
        decoder.decode(log_probs, beam_width=4)


def warm_up_second_pass(second_pass: SecondPass, acoustic: AcousticModel) -> None:
    """Decode half a second with both passes, for the same reason.

    Not of silence, in which the second pass would have nothing to do: of random emissions and states.
    """
    with notice(_compiling()):
        silence = acoustic.compute_features(np.zeros(acoustic.sample_rate // 2, np.float32))
        log_probs, states = acoustic.compute_states(silence)
        random = np.random.default_rng(0)
        heard = random.normal(0.0, 3.0, log_probs.shape).astype(np.float32)
        heard -= np.logaddexp.reduce(heard, axis=1, keepdims=True)
        states = random.normal(0.0, 1.0, states.shape).astype(states.dtype)
        second_pass.decode(heard, states, DecodingOptions())


def warm_up_translator(translator: Translator) -> None:
    """Translate one word greedily and with two beams, for the same reason."""
    with notice(_compiling()):
        for beam_size in (1, 2):
            translator.translate(["ja"], beam_size=beam_size)


def compile_decoder(path: str) -> None:
    """The process that compile_beside starts."""
    warm_up_decoder(load_decoder(open_bundle(path)))

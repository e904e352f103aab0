"""Compile every kernel when a model is loaded, and say so when that takes a while."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from engine.acoustic import AcousticModel
from engine.decoding import CtcBeamDecoder
from engine.translation import Translator

NOTICE_AFTER_S = 1.5
COMPILING = "compiling kernels for this processor, once; it takes about half a minute"
logger = logging.getLogger("engine")


@contextmanager
def notice(message: str, after_s: float = NOTICE_AFTER_S) -> Iterator[None]:
    """Log a message when the block takes longer than after_s seconds."""
    timer = threading.Timer(after_s, logger.warning, (message,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def warm_up(acoustic: AcousticModel, decoder: CtcBeamDecoder) -> None:
    """Run features, decoder and encoder kernels once, so that the first request does not pay for compiling.

    From numba's cache this takes milliseconds; without it, once per machine, about half a minute.
    """
    with notice(COMPILING):
        features = acoustic.compute_features(np.zeros(acoustic.sample_rate // 2, np.float32))
        n_tokens = len(acoustic.vocabulary)
        log_probs = np.full((4, n_tokens), -np.log(n_tokens), np.float32)
        decoder.decode(log_probs, beam_width=4)
        if acoustic.encoder.backend == "kernels":
            acoustic.compute_log_probs(features)


def warm_up_translator(translator: Translator) -> None:
    """Translate one word greedily and with two beams, for the same reason."""
    with notice(COMPILING):
        for beam_size in (1, 2):
            translator.translate(["ja"], beam_size=beam_size)

"""Is the model alive? Only a real inference that ends in time says so."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any, Final

import numpy as np

from engine.audio.load import SAMPLE_RATE
from engine.serve.settings import Recogniser, ServeSettings
from engine.serve.work import WorkQueue
from engine.types import DecodingOptions

PROBE_S: Final = 0.5  # seconds of audio
FRESH_S: Final = 1.0
_log = logging.getLogger("engine")


class HealthCheck:
    """Runs one probe at a time on a thread of its own; callers share it."""

    def __init__(self, recogniser: Recogniser, queue: WorkQueue, settings: ServeSettings) -> None:
        self._recogniser, self._queue, self._settings = recogniser, queue, settings
        self._probe: asyncio.Future[float] | None = None
        self._began_s = 0.0

    async def check(self) -> tuple[bool, dict[str, Any]]:
        """Probe the model.

        Returns:
            Whether it is healthy, and the report to send.
        """
        report: dict[str, Any] = {"running": self._queue.n_running, "pending": self._queue.pending}
        longest_s = self._queue.longest_s()
        if longest_s > self._settings.stuck_after_s:
            return False, {"status": "stuck", "reason": f"a request runs for {longest_s:.0f} s", **report}
        if self._probe is None or (self._probe.done() and not self._is_fresh()):
            self._start()
        assert self._probe is not None
        left_s = self._began_s + self._settings.health_deadline_s - time.monotonic()
        try:
            seconds = await asyncio.wait_for(asyncio.shield(self._probe), max(left_s, 0.0))
        except TimeoutError:
            return False, {"status": "stuck", "reason": "inference does not end", **report}
        except Exception as error:
            _log.exception("the health probe failed")
            return False, {"status": "failed", "reason": type(error).__name__, **report}
        return True, {"status": "ok", "inference_ms": round(1000 * seconds, 1), **report}

    def _is_fresh(self) -> bool:
        """Whether the last probe was right, and so young that another would only cost time."""
        assert self._probe is not None
        return self._probe.exception() is None and time.monotonic() - self._began_s < FRESH_S

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        probe: asyncio.Future[float] = loop.create_future()
        self._probe, self._began_s = probe, time.monotonic()

        def settle(seconds: float, error: Exception | None) -> None:
            if not probe.done():
                probe.set_exception(error) if error else probe.set_result(seconds)

        def run() -> None:
            began_s, problem = time.perf_counter(), None
            try:
                self._infer()
            except Exception as error:
                problem = error
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, time.perf_counter() - began_s, problem)

        # A daemon: a deadlocked model must not keep the process alive as well.
        threading.Thread(target=run, name="engine-health", daemon=True).start()

    def _infer(self) -> None:
        noise = np.random.default_rng(0).normal(0, 0.01, int(PROBE_S * SAMPLE_RATE)).astype(np.float32)
        self._recogniser.transcribe(noise, SAMPLE_RATE, options=DecodingOptions(vad_filter=False))

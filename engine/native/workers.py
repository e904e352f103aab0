"""Shares the rows of one utterance out over threads; the kernels release the GIL."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from engine.runtime.cancel import CancelToken

Job = Callable[[int, int, int], None]  # worker, start, end


class Workers:
    """Threads for one call.

    Attributes:
        count: how many work at once at most, the caller among them; fewer while others want the cores.
    """

    def __init__(self, count: int, cancel: CancelToken | None = None) -> None:
        self.count = max(1, count)
        self._cancel = cancel
        self._pool = ThreadPoolExecutor(self.count - 1) if self.count > 1 else None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True)

    def share(self, n_items: int, multiple: int, job: Job) -> None:
        """Call job for parts of range(n_items) that start at multiples of `multiple`; waits for all.

        Raises:
            CancelledError: the token was set before.
        """
        if self._cancel is not None:
            self._cancel.raise_if_cancelled()
        n_parts, count = -(-n_items // multiple), self._usable()
        if self._pool is None or min(n_parts, count) == 1:
            job(0, 0, n_items)
            return
        bounds = [min(n_items, multiple * (n_parts * i // count)) for i in range(count)]
        bounds.append(n_items)
        parts = [(i, bounds[i], bounds[i + 1]) for i in range(count) if bounds[i] < bounds[i + 1]]
        waiting = [self._pool.submit(job, *part) for part in parts[1:]]
        try:
            job(*parts[0])
        finally:
            for future in waiting:
                future.exception()  # waits: the buffers must outlive every kernel
        for future in waiting:
            future.result()

    def _usable(self) -> int:
        """How many may work now."""
        cores = None if self._cancel is None else self._cancel.cores
        return self.count if cores is None else max(1, min(self.count, cores))

"""What service and clients take of the machine, which they share."""

from __future__ import annotations

import time

from benchmarks.load.service import Service


class Used:
    """Cores that service and clients kept busy while a block ran; they share the machine's."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.service_s = self.clients_s = self.wall_s = 0.0

    def __enter__(self) -> Used:
        self._began = self._read()
        return self

    def __exit__(self, *exception: object) -> None:
        now = self._read()
        self.service_s, self.clients_s, self.wall_s = (b - a for a, b in zip(self._began, now, strict=True))

    def _read(self) -> tuple[float, float, float]:
        return self._service.cpu_s(), time.process_time(), time.perf_counter()

    def figures(self) -> dict[str, float] | None:
        """In cores; None where nothing ran."""
        if not self.wall_s:
            return None
        seconds = {"service": self.service_s, "clients": self.clients_s}
        return {name: round(each / self.wall_s, 3) for name, each in seconds.items()}

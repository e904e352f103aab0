"""What /metrics says, in Prometheus' format; nothing where the package prometheus-client is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from engine.types import Transcript, Translation

if TYPE_CHECKING:
    from engine.serve.service import Service

PREFIX: Final = "speech_engine"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 150, 600)
ENDPOINTS: Final = frozenset(
    {
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/audio/renderings",
        "/v1/realtime",
        "/v1/models",
        "/health",
        "/live",
        "/ready",
        "/metrics",
    }
)


class NoMetrics:
    """Counts nothing."""

    def observe_request(self, path: str, status: int, seconds: float) -> None:
        """A request was answered."""

    def observe_stage(self, stage: str, seconds: float) -> None:
        """One stage of one request took so long."""

    def observe_result(self, task: str, result: Transcript | Translation) -> None:
        """A recording became text."""

    def observe_audio(self, task: str, seconds: float) -> None:
        """Audio was recognised."""

    def observe_session(self, path: str, status: int) -> None:
        """A WebSocket was opened (status 101) or refused, and has ended."""

    def count_error(self, code: str) -> None:
        """A request was refused or failed."""

    def render(self) -> bytes | None:
        """All figures as text, or None."""
        return None


class Metrics(NoMetrics):
    """Counts everything, in a registry of its own."""

    def __init__(self, client: Any, service: Service) -> None:
        self._client, self._registry = client, client.CollectorRegistry()
        client.ProcessCollector(registry=self._registry)  # memory, descriptors, CPU
        self._requests = self._make("Counter", "requests_total", "Answers", ["endpoint", "status"])
        self._seconds = self._timed("request_seconds", "From the head to the answer", ["endpoint"])
        self._stages = self._timed("stage_seconds", "Stages of the work on requests", ["stage"])
        self._audio = self._make("Counter", "audio_seconds_total", "Audio that became text", ["task"])
        self._errors = self._make("Counter", "errors_total", "Requests refused or failed", ["code"])
        for name, what, value in (
            ("queue_pending", "Complete requests that wait or run", lambda: service.queue.pending),
            ("queue_running", "Requests that are being recognised", lambda: service.queue.n_running),
            ("uploads", "Bodies that are arriving", lambda: len(service.uploads)),
            ("realtime_sessions", "Open sessions over WebSockets", lambda: len(service.realtime)),
            ("connections", "Open connections", lambda: service.n_connections()),
        ):
            self._make("Gauge", name, what, []).set_function(value)

    def observe_request(self, path: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(_endpoint(path), status).inc()
        self._seconds.labels(_endpoint(path)).observe(seconds)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """One stage of one request took so long."""
        self._stages.labels(stage).observe(seconds)

    def observe_result(self, task: str, result: Transcript | Translation) -> None:
        """A recording became text."""
        self.observe_audio(task, result.duration_s)
        for stage, seconds in result.stages_s.items():
            self.observe_stage(stage, seconds)

    def observe_audio(self, task: str, seconds: float) -> None:
        """Audio was recognised."""
        self._audio.labels(task).inc(seconds)

    def observe_session(self, path: str, status: int) -> None:
        """A WebSocket was opened (status 101) or refused, and has ended."""
        self._requests.labels(_endpoint(path), status).inc()

    def count_error(self, code: str) -> None:
        """A request was refused or failed."""
        self._errors.labels(code).inc()

    def render(self) -> bytes | None:
        """All figures as text."""
        return bytes(self._client.generate_latest(self._registry))

    def _make(self, kind: str, name: str, what: str, labels: list[str], **options: Any) -> Any:
        return getattr(self._client, kind)(
            f"{PREFIX}_{name}", what, labels, registry=self._registry, **options
        )

    def _timed(self, name: str, what: str, labels: list[str]) -> Any:
        return self._make("Histogram", name, what, labels, buckets=BUCKETS_S)


def _endpoint(path: str) -> str:
    """A path as a label: clients cannot make new ones."""
    return path if path in ENDPOINTS else "other"


def create_metrics(service: Service) -> NoMetrics:
    """Metrics of a service, which count nothing where the package is missing."""
    try:
        import prometheus_client
    except ImportError:
        return NoMetrics()
    return Metrics(prometheus_client, service)

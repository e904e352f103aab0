"""What the service says about itself, for whoever watches it."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from engine._distribution import install_command
from engine.serve.health import HealthCheck
from engine.serve.metrics import CONTENT_TYPE
from engine.serve.responses import RETRY_AFTER_S, error_response
from engine.serve.service import Service


def add_status(app: FastAPI, service: Service) -> None:
    """Add the endpoints."""
    health = HealthCheck(service.recogniser, service.queue, service.settings)

    @app.get("/health")
    @app.head("/health", include_in_schema=False)
    async def check_health() -> Response:
        """Run a tiny inference; 200 only when it ended in time."""
        healthy, report = await health.check()
        return JSONResponse({**report, "model": service.model_name}, 200 if healthy else 503)

    @app.get("/live")
    @app.head("/live", include_in_schema=False)
    async def live() -> Response:
        """Whether the process answers at all."""
        return JSONResponse({"status": "ok"})

    @app.get("/ready")
    @app.head("/ready", include_in_schema=False)
    async def ready() -> Response:
        """Whether to send requests here: not while it is ending, or a request is stuck."""
        stuck = service.queue.longest_s() > service.settings.stuck_after_s
        status = "draining" if service.draining else "stuck" if stuck else "ok"
        if status == "ok":
            return JSONResponse({"status": status})
        return JSONResponse({"status": status}, 503, {"Retry-After": str(RETRY_AFTER_S)})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Figures for Prometheus."""
        content = service.metrics.render()
        if content is None:
            told = f"no metrics: the package prometheus-client is missing; fix: {install_command('serve')}"
            return error_response(501, told, "DependencyError")
        return Response(content, media_type=CONTENT_TYPE)

"""What the service says about itself: health and models."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from engine._distribution import NAME
from engine.serve.health import HealthCheck
from engine.serve.service import Service


def add_status(app: FastAPI, service: Service) -> None:
    """Add the endpoints."""
    health = HealthCheck(service.recogniser, service.queue, service.settings)

    @app.get("/health")
    async def check_health() -> Response:
        """Run a tiny inference; 200 only when it ended in time."""
        healthy, report = await health.check()
        return JSONResponse({**report, "model": service.model_name}, 200 if healthy else 503)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is loaded."""
        model = {"id": service.model_name, "object": "model", "created": 0, "owned_by": NAME}
        return {"object": "list", "data": [model]}

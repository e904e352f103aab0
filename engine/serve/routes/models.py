"""The model list: the one model that is loaded."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from engine._distribution import NAME
from engine.serve.responses import error_response
from engine.serve.service import Service


def add_models(app: FastAPI, service: Service) -> None:
    """Add the endpoints."""

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is loaded."""
        return {"object": "list", "data": [_describe(service)]}

    @app.get("/v1/models/{model_id:path}")
    async def model(model_id: str) -> Response:
        """That model, or 404."""
        if model_id != service.model_name:
            told = f"the model {model_id[:40]!r}, which is not loaded; expected {service.model_name}"
            return error_response(404, told, "model_not_found")
        return JSONResponse(_describe(service))


def _describe(service: Service) -> dict[str, Any]:
    return {"id": service.model_name, "object": "model", "created": service.created_s, "owned_by": NAME}

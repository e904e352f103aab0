"""The page at `/`, for people: its files, and what it wants to know before it shows itself."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from engine.serve.page import FILES, HEADERS, SETTINGS_PATH, load_file, path_of
from engine.serve.service import Service


def add_page(app: FastAPI, service: Service) -> None:
    """Add a path for each file, and the settings."""
    for name in FILES:
        app.add_route(path_of(name), _answer_with(name), methods=["GET", "HEAD"], include_in_schema=False)

    @app.get(SETTINGS_PATH, include_in_schema=False)
    async def settings() -> Response:
        """What the page must know to say it before a recording is sent; no secret."""
        return JSONResponse(page_settings(service), headers={"Cache-Control": "no-store"})


def page_settings(service: Service) -> dict[str, Any]:
    """What the page is told of the service: the model's name, whether it wants a key, and its limits."""
    bounds = service.settings
    return {
        "model": service.model_name,
        "needs_key": bool(bounds.api_keys),
        "max_upload_bytes": bounds.max_upload_bytes,
        "max_duration_s": bounds.max_duration_s,
    }


def _answer_with(name: str) -> Any:
    async def answer(request: Request) -> Response:
        file = load_file(name)
        headers = {**HEADERS, "ETag": file.tag}
        if file.tag in _tags(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        return Response(file.content, headers=headers, media_type=file.media_type)

    return answer


def _tags(header: str) -> list[str]:
    """The tags of If-None-Match; a weak one counts as well."""
    return [tag.strip().removeprefix("W/") for tag in header.split(",")]

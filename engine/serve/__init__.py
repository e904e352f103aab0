"""HTTP service with OpenAI's audio endpoints (extra [serve])."""

from engine.serve.app import create_app
from engine.serve.settings import ServeSettings

__all__ = ["ServeSettings", "create_app"]

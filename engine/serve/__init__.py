"""HTTP service with OpenAI's audio endpoints (extra [serve])."""

from engine.serve.app import create_app
from engine.serve.settings import ConnectionLimits, ServeSettings

__all__ = ["ConnectionLimits", "ServeSettings", "create_app"]

"""Services: OpenAI's audio endpoints (extra [serve]), and speech to text for home assistants ([wyoming]).

Each needs an extra of its own, so that nothing is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from engine.serve.app import create_app
    from engine.serve.settings import ConnectionLimits, ServeSettings

__all__ = ["ConnectionLimits", "ServeSettings", "create_app"]

_LATER: Final = {
    "ConnectionLimits": "engine.serve.settings",
    "ServeSettings": "engine.serve.settings",
    "create_app": "engine.serve.app",
}


if not TYPE_CHECKING:  # a type checker knows every name from above, and refuses others

    def __getattr__(name: str) -> Any:
        """A public name, at its first use."""
        if name not in _LATER:
            raise AttributeError(f"module 'engine.serve' has no attribute {name!r}")
        value = getattr(importlib.import_module(_LATER[name]), name)
        globals()[name] = value
        return value

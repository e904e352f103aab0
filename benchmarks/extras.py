"""The packages of the extra [bench], imported at their first use, or refused with the command to install."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from engine._distribution import install_command
from engine.errors import DependencyError

SCORING = ("jiwer", "sacrebleu")
INSTALL = install_command("bench")


def load_extra(name: str) -> Any:
    """Import a module of the extra.

    Raises:
        DependencyError: it is not installed.
    """
    check_extras(name.split(".")[0])
    return importlib.import_module(name)


def check_extras(*names: str, extra: str = INSTALL) -> None:
    """Refuse to start where a missing package would end the run after an hour of measuring."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise DependencyError(f"{' and '.join(missing)} not installed", fix=extra)

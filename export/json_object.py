"""JSON objects of checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from export.errors import ExportError


def read_json(path: Path, required: bool = False) -> dict[str, Any]:
    """A JSON object; {} for a missing file that is not required.

    Raises:
        ExportError: a required file is missing, or it is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if not required:
            return {}
        raise ExportError(
            f"{str(path.parent)!r} has no {path.name}", "a save_pretrained folder", "check the path"
        ) from error
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{path.name} cannot be read ({error})", "a JSON object", "restore the file"
        ) from error
    if not isinstance(content, dict):
        raise ExportError(f"{path.name} holds {type(content).__name__}", "a JSON object", "restore the file")
    return content

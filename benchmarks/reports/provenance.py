"""Where a figure comes from: command, commit and time.

Standard library only: peers' environments import it.
"""

from __future__ import annotations

import datetime
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = "none"  # an installed package
_ABSOLUTE = re.compile(r"(?<![^\s=])/(?:[^\s/]+/)*([^\s/]+)")


def commit(root: Path = ROOT) -> str:
    """The commit of the checkout that this file runs from, with "+" where tracked files differ from it.

    Args:
        root: of the checkout.
    Returns:
        Ten hex digits, perhaps with "+"; OUTSIDE where there is no checkout, or no git to ask.
    """
    if not (root / ".git").exists():
        return OUTSIDE
    command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--dirty=+", "--abbrev=10"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return OUTSIDE
    return answer.stdout.strip() or OUTSIDE


def command_line(program: str, arguments: Sequence[str] | None = None) -> str:
    """The command, with only the last part of absolute paths: folders differ between machines.

    Args:
        program: as a user starts it, such as "engine-bench".
        arguments: after it; None: those of this process.
    """
    typed = sys.argv[1:] if arguments is None else arguments
    return " ".join([program, shlex.join(_shorten(argument) for argument in typed)]).strip()


def _shorten(argument: str) -> str:
    return _ABSOLUTE.sub(r"\1", argument)


def provenance(program: str, arguments: Sequence[str] | None = None) -> dict[str, str]:
    """What every result file contains besides its figures: command, commit and time (UTC, ISO 8601)."""
    moment = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"command": command_line(program, arguments), "commit": commit(), "time": moment}

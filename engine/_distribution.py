"""What the package is called where packages are installed from; setup.py reads it from here."""

from __future__ import annotations

from pathlib import Path

NAME = "german-speech-engine"  # not `speech-engine`, which is somebody else's package
VERSION = "0.1.0"


def install_command(extra: str) -> str:
    """The command that installs an extra: from the checkout that this file is in, or by the package's name.

    Args:
        extra: one of setup.py's, for instance "train".
    """
    root = Path(__file__).resolve().parents[1]
    if (root / "setup.py").is_file():
        return f"pip install -e '{root}[{extra}]'"
    return f"pip install '{NAME}[{extra}]'"

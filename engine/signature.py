"""What a figure was measured with: model, options, versions, machine."""

from __future__ import annotations

import platform
from pathlib import Path

from engine.bundle import Bundle
from engine.session import runtime_version


def cpu_model() -> str:
    """The processor's name as the operating system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def bundle_digest(bundle: Bundle) -> str:
    """Eight hex digits that change with any file of the bundle; "bare" for a bare model."""
    import hashlib

    entries = sorted(f"{entry.role}:{entry.sha256}" for entry in bundle.manifest.files)
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()[:8] if entries else "bare"


def describe(parts: dict[str, object]) -> str:
    """Join settings to one line, in the form name:value|name:value."""
    return "|".join(f"{name}:{value}" for name, value in parts.items())


def environment() -> dict[str, object]:
    """Versions and machine, for the end of a signature."""
    from engine import __version__

    return {"ort": runtime_version(), "engine": __version__, "cpu": cpu_model()}

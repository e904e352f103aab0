"""What a figure was measured with: model, options, versions, machine."""

from __future__ import annotations

import platform
import re
from pathlib import Path

from engine.bundle.folder import Bundle
from engine.runtime.onnx_session import runtime_version


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as the operating system gives it.

    Linux on ARM gives numbers instead, the maker and part of each kind of core: "aarch64 0x41/0xd0c".
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8")
    except OSError:
        text = ""
    names = re.findall(r"^model name\s*:\s*(.+?)\s*$", text, re.MULTILINE)
    if names:
        return str(names[0])
    makers, parts = (
        re.findall(rf"^CPU {name}\s*:\s*(\w+)", text, re.MULTILINE) for name in ("implementer", "part")
    )
    cores = sorted({f"{maker}/{part}" for maker, part in zip(makers, parts, strict=False)})
    return " ".join([platform.processor() or platform.machine(), *cores])


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

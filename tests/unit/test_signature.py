"""The processor as Linux describes it, which differs between architectures."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from benchmarks.reports.signature import vector_units
from engine.bundle.signature import cpu_model

X86 = """processor\t: {core}
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC 9R14
flags\t\t: fpu sse2 avx2 avx512f avx512_bf16
"""
ARM = """processor\t: {core}
BogoMIPS\t: 243.75
Features\t: fp asimd asimddp i8mm bf16
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: {part}
CPU revision\t: 1
"""


def write_cpuinfo(folder: Path, text: str, parts: tuple[str, ...]) -> Path:
    path = folder / "cpuinfo"
    blocks = [text.format(core=core, part=part) for core, part in enumerate(parts)]
    path.write_text("\n".join(blocks))
    return path


def test_x86_has_a_name_and_flags(tmp_path: Path) -> None:
    path = write_cpuinfo(tmp_path, X86, ("", ""))
    assert cpu_model(path) == "AMD EPYC 9R14"
    assert vector_units(path) == ["avx2", "avx512f", "avx512_bf16"]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("0xd0c", "0xd0c"), "aarch64 0x41/0xd0c"),
        (("0xd05", "0xd0a"), "aarch64 0x41/0xd05 0x41/0xd0a"),  # two kinds of core
    ],
)
def test_arm_has_numbers_and_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...], expected: str
) -> None:
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    path = write_cpuinfo(tmp_path, ARM, parts)
    assert cpu_model(path) == expected
    assert vector_units(path) == ["asimddp", "i8mm", "bf16"]


def test_another_system_says_what_python_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert cpu_model(tmp_path / "missing") == "arm"
    assert vector_units(tmp_path / "missing") is None

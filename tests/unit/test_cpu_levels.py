"""Which instruction set level is chosen: by the processor, by the variable, and what is refused."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import llvmlite.binding
import pytest

from engine.errors import DeviceError, OptionError
from engine.kernels.vector import levels

ROOT = Path(__file__).resolve().parents[2]
ZEN_3 = levels._AVX2
ALDER_LAKE = (*ZEN_3, "avxvnni")
ICE_LAKE = levels._AVX512
ZEN_4 = (*ICE_LAKE, "avx512bf16")
ZEN_5 = (*ZEN_4, "avxvnni")
SAPPHIRE_RAPIDS = (*ZEN_5, *levels._AMX)


def forget() -> None:
    """The questions are answered once a process."""
    for question in (levels.host_features, levels.available, levels.active, levels.may_use_matrix_unit):
        question.cache_clear()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Processors are made by `become`; afterwards this one is asked again."""
    monkeypatch.delenv(levels.VARIABLE, raising=False)
    forget()
    yield monkeypatch
    monkeypatch.undo()
    forget()


def become(
    machine: pytest.MonkeyPatch, features: tuple[str, ...], name: str = "x86_64", allowed: bool = True
) -> None:
    machine.setattr(llvmlite.binding, "get_host_cpu_features", lambda: dict.fromkeys(features, True))
    machine.setattr(platform, "machine", lambda: name)
    forget()
    machine.setattr(levels, "_request_matrix_unit", lambda: allowed)


@pytest.mark.parametrize(
    ("features", "available"),
    [
        ((), ()),
        (("sse4.2", "avx"), ()),
        (ZEN_3, ("avx2",)),
        (ALDER_LAKE, ("avx2", "avx-vnni")),
        (ICE_LAKE, ("avx2", "avx-vnni", "avx512")),
        (ZEN_4, ("avx2", "avx-vnni", "avx512")),
        (SAPPHIRE_RAPIDS, ("avx2", "avx-vnni", "avx512", "amx")),
        ((*ZEN_5, "amx-tile"), ("avx2", "avx-vnni", "avx512")),
        ((*ZEN_3, "avx512f", "avx512bw", "avx512dq", "avx512cd", "avx512vl"), ("avx2",)),  # Skylake-X
    ],
)
def test_the_highest_level_of_the_processor_is_chosen(
    machine: pytest.MonkeyPatch, features: tuple[str, ...], available: tuple[str, ...]
) -> None:
    become(machine, features)
    assert levels.available() == available
    assert levels.active().name == (available[-1] if available else "none")
    assert levels.has_vector_kernels() is bool(available)


@pytest.mark.parametrize("missing", levels._AVX2)
def test_every_instruction_that_code_may_hold_is_asked_for(machine: pytest.MonkeyPatch, missing: str) -> None:
    become(machine, tuple(name for name in ZEN_5 if name != missing))
    assert levels.available() == ()


def test_the_code_of_a_level_holds_what_the_processor_has(machine: pytest.MonkeyPatch) -> None:
    become(machine, ICE_LAKE)
    assert not levels.active().has("avx512bf16")
    become(machine, ZEN_4)
    assert levels.active() == levels.LEVELS["avx512"]
    machine.setenv(levels.VARIABLE, "avx-vnni")
    forget()
    assert not levels.active().has("avxvnni")
    become(machine, ZEN_5)
    assert levels.active() == levels.LEVELS["avx-vnni"]


def test_a_matrix_unit_that_the_system_withholds_is_not_used(machine: pytest.MonkeyPatch) -> None:
    become(machine, SAPPHIRE_RAPIDS, allowed=False)
    assert levels.active() == levels.LEVELS["avx512"]
    machine.setenv(levels.VARIABLE, "amx")
    forget()
    with pytest.raises(DeviceError, match=r"ENGINE_CPU_LEVEL=amx, which this processor or its system"):
        levels.active()


def test_other_architectures_have_no_level_whatever_llvm_names(machine: pytest.MonkeyPatch) -> None:
    become(machine, SAPPHIRE_RAPIDS, "aarch64")
    assert (levels.available(), levels.active().name) == ((), "none")


@pytest.mark.parametrize("wanted", ["avx2", "avx-vnni", "avx512", "amx", "none"])
def test_the_variable_lowers_the_level(machine: pytest.MonkeyPatch, wanted: str) -> None:
    become(machine, SAPPHIRE_RAPIDS)
    machine.setenv(levels.VARIABLE, f" {wanted}\n")
    assert levels.active().name == wanted


def test_a_level_that_the_processor_lacks_is_refused(machine: pytest.MonkeyPatch) -> None:
    become(machine, ZEN_3)
    machine.setenv(levels.VARIABLE, "avx512")
    with pytest.raises(DeviceError, match=r"ENGINE_CPU_LEVEL=avx512, which.*one of avx2, none.*unset"):
        levels.active()


@pytest.mark.parametrize("wanted", ["sse", "AVX2", "avx2,avx512", "\N{SNOWMAN}"])
def test_an_unknown_level_is_refused(machine: pytest.MonkeyPatch, wanted: str) -> None:
    become(machine, ZEN_5)
    machine.setenv(levels.VARIABLE, wanted)
    with pytest.raises(OptionError, match="one of avx2, avx-vnni, avx512, amx, none"):
        levels.active()


@pytest.mark.parametrize("command", [["info"], ["transcribe", "examples/audio/visit.flac"]])
def test_the_command_line_says_so_in_one_line(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "engine", *command], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, levels.VARIABLE: "avx9"},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "engine: error: ENGINE_CPU_LEVEL='avx9'; expected one of avx2, avx-vnni, avx512, amx, none; "
        "fix: unset the variable"
    ]

"""`engine warmup`: what it says, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.cli import main
from engine.cli import warmup as command
from engine.kernels._disk_cache import Places

pytestmark = pytest.mark.levels


def test_it_calls_every_stage_and_says_where_the_kernels_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["warmup"]) == 0
    first, *places = capsys.readouterr().out.splitlines()
    assert first.startswith("kernels are ready, after ")
    assert places and all(line.endswith(" kernels") for line in places)


def test_other_levels_go_to_the_place_that_is_searched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    called: list[tuple[Path, list[str]]] = []

    def compile_ahead(place: Path, names: list[str], n: int, progress: Callable[[int, int], None]) -> None:
        called.append((place, names))
        progress(1, 2)
        progress(2, 2)

    monkeypatch.setattr(command, "find_cache", lambda: Places(None, tmp_path / "kernels-of-this-state"))
    monkeypatch.setattr(command, "compile_ahead", compile_ahead)
    assert main(["warmup", "--levels", "avx2", "avx-vnni"]) == 0
    assert called == [(tmp_path, ["avx2", "avx-vnni"])]
    capsys.readouterr()


def test_an_unknown_level_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["warmup", "--levels", "avx9"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.strip().splitlines()[-1].startswith("engine: error: level 'avx9'; expected one of avx2")


def test_where_nothing_can_be_kept_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "find_cache", lambda: Places(None, None))
    assert main(["warmup"]) == 1
    assert "fix: set NUMBA_CACHE_DIR to one" in capsys.readouterr().err


def test_a_missing_model_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["warmup", "--model", "no-such-bundle"]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1

"""The short form of tests/fuzz/audio.py; the long one is a command of its own."""

from __future__ import annotations

import importlib.util

import pytest

from tests.fuzz.audio import check, fuzz, make_files


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return make_files(media=importlib.util.find_spec("av") is not None)


def test_undamaged_files_are_read_without_a_warning(files: dict[str, bytes]) -> None:
    outcomes = {name: check(content) for name, content in files.items() if "2 tracks" not in name}
    assert outcomes == dict.fromkeys(outcomes, "audio")


def test_mutated_files_end_in_audio_or_a_typed_error(files: dict[str, bytes]) -> None:
    record = fuzz(400, 1, list(files.values()))
    outcomes = record.total()
    assert record.done == sum(outcomes.values()) == 400
    assert outcomes["audio"] > 20
    assert outcomes["AudioDecodeError"] > 20

"""Compiling the decoder beside the encoder: when it starts, that it works, and that it is waited for."""

from __future__ import annotations

import sys

import pytest

from engine.bundle.folder import open_bundle
from engine.jobs import warmup
from engine.kernels._disk_cache import Places


def test_the_process_compiles_the_decoder_of_a_bundle() -> None:
    process = warmup._start_compiling(open_bundle(None))
    assert process is not None
    assert process.wait(timeout=280) == 0
    assert warmup._decoder_is_compiled()


def test_nothing_starts_on_one_core_or_with_a_full_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(warmup, "_start_compiling", started.append)
    monkeypatch.setattr(warmup, "_decoder_is_compiled", lambda: True)
    with warmup.compile_beside(open_bundle(None), threads=2):
        pass
    monkeypatch.setattr(warmup, "_decoder_is_compiled", lambda: False)
    with warmup.compile_beside(open_bundle(None), threads=1):
        pass
    assert started == []


def test_the_process_is_waited_for_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[bool] = []

    class Started:
        def wait(self) -> None:
            waited.append(True)

    monkeypatch.setattr(warmup, "_start_compiling", lambda bundle: Started())
    monkeypatch.setattr(warmup, "_decoder_is_compiled", lambda: False)
    with pytest.raises(RuntimeError), warmup.compile_beside(open_bundle(None), threads=2):
        raise RuntimeError
    assert waited == [True]


@pytest.mark.parametrize("executable", ["", "/usr/bin/some-server", "/no/such/python3"])
def test_without_an_interpreter_nothing_happens(monkeypatch: pytest.MonkeyPatch, executable: str) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    assert warmup._start_compiling(open_bundle(None)) is None


def test_the_notice_says_what_to_do_where_nothing_can_be_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "once" in warmup._compiling()
    monkeypatch.setattr(warmup, "find_cache", lambda: Places(None, None))
    assert "every process" in warmup._compiling() and "NUMBA_CACHE_DIR" in warmup._compiling()

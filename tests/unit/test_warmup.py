"""Compiling the decoder beside the encoder: when it starts, that it works, and that it is waited for."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numba
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


def start_sleeping(seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-P", "-c", f"import time; time.sleep({seconds})"])


def test_the_process_is_waited_for_and_ended_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "_decoder_is_compiled", lambda: False)
    short, long = start_sleeping(0.1), start_sleeping(60)
    monkeypatch.setattr(warmup, "_start_compiling", lambda bundle: short)
    with warmup.compile_beside(open_bundle(None), threads=2):
        pass
    assert short.returncode == 0
    monkeypatch.setattr(warmup, "_start_compiling", lambda bundle: long)
    with pytest.raises(KeyboardInterrupt), warmup.compile_beside(open_bundle(None), threads=2):
        raise KeyboardInterrupt
    assert long.wait(10) < 0


def test_a_process_that_hangs_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    process = start_sleeping(60)
    monkeypatch.setattr(warmup, "_start_compiling", lambda bundle: process)
    monkeypatch.setattr(warmup, "_decoder_is_compiled", lambda: False)
    monkeypatch.setattr(warmup, "COMPILE_S", 0.1)
    with warmup.compile_beside(open_bundle(None), threads=2):
        pass
    assert process.wait(10) < 0


def test_only_compiling_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(warmup, "_say_once", said.append)
    with warmup.notice("slow, and nothing is compiled", after_s=0.0):
        time.sleep(0.05)
    assert said == []
    with warmup.notice("compiling", after_s=0.0):
        numba.njit(lambda x: x + 1)(1)
        time.sleep(0.05)
    assert said == ["compiling"]


@pytest.mark.parametrize("executable", ["", "/usr/bin/some-server", "/no/such/python3"])
def test_without_an_interpreter_nothing_happens(monkeypatch: pytest.MonkeyPatch, executable: str) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    assert warmup._start_compiling(open_bundle(None)) is None


def test_the_notice_says_what_to_do_where_nothing_can_be_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "once" in warmup._compiling()
    monkeypatch.setattr(warmup, "find_cache", lambda: Places(None, None))
    assert "every process" in warmup._compiling() and "NUMBA_CACHE_DIR" in warmup._compiling()


COUNT = """
import gc, sys
import engine
from numba.core.registry import CPUDispatcher

def kernels():
    found = [each for each in gc.get_objects() if isinstance(each, CPUDispatcher)]
    return {each.py_func.__qualname__: len(each.signatures) for each in found}

translator = engine.load(threads=1)
translator.second_pass
before = kernels()
text = translator.transcribe(sys.argv[1]).text
late = [name for name, count in kernels().items() if count != before.get(name, 0)]
print(len(text) > 20 and sum(before.values()) > 10, *late)
"""


def test_a_loaded_model_has_every_kernel_that_the_first_recording_needs() -> None:
    """In a process of its own: here other tests have used them."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", COUNT, str(root / "examples" / "audio" / "station.flac")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=280)
    assert done.stdout.split() == ["True"], done.stdout

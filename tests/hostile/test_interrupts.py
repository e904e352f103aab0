"""Ctrl-C and SIGTERM in real processes: one line, the signal's exit code, at once and without an abort."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

ROOT = Path(__file__).resolve().parents[2]
CLIP = ROOT / "examples" / "audio" / "visit.flac"
PROGRAM = """
import signal, sys, threading, time
from engine.runtime.interrupts import run_program

def work():
    if "stuck" in sys.argv:
        try:
            print("working", flush=True)
            time.sleep(60)
        finally:
            time.sleep(60)  # what ends in order, but does not end
    thread = threading.Thread(target=time.sleep, args=(60,))  # not a daemon: Python would wait for it
    thread.start()
    print("working", flush=True)
    thread.join()
    return 0

sys.exit(run_program("tool", work))
"""


def start(*command: str, **options: object) -> subprocess.Popen[bytes]:
    def not_ignored() -> None:  # as it is where the tests run in the background
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)

    return subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
        preexec_fn=not_ignored, **options,  # type: ignore[call-overload]
    )  # fmt: skip


def wait_for_output(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == b"working\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_without_waiting_for_threads(number: signal.Signals) -> None:
    process = start("-c", PROGRAM)
    wait_for_output(process)
    process.send_signal(number)
    _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (128 + number, b"tool: interrupted\n")


def test_a_second_signal_ends_what_is_still_being_put_in_order() -> None:
    process = start("-c", PROGRAM, "stuck")
    wait_for_output(process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 130 and said.startswith(b"tool: ended at once") and said.count(b"\n") == 1


def test_what_does_not_end_is_ended_after_a_while() -> None:
    quick = PROGRAM.replace(
        "def work", "import engine.runtime.interrupts as module\nmodule.GRACE_S = 0.5\ndef work"
    )
    process = start("-c", quick, "stuck")
    wait_for_output(process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 143 and said.startswith(b"tool: ended at once")


def test_a_signal_that_is_ignored_stays_so() -> None:
    code = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{PROGRAM}"
    process = start("-c", code)
    wait_for_output(process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 143


def test_handlers_are_given_back_where_the_process_goes_on() -> None:
    from engine.runtime.interrupts import run_program

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def interrupted() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        return 0

    assert run_program("tool", interrupted, whole_process=False) == 143
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    ("numbers", "after_s"), [([signal.SIGINT], 1.0), ([signal.SIGINT] * 2, 4.0), ([signal.SIGTERM], 4.0)]
)
def test_a_long_recording_is_ended(tmp_path: Path, numbers: list[signal.Signals], after_s: float) -> None:
    waveform, rate = sf.read(CLIP, dtype="float32")
    sf.write(tmp_path / "long.wav", np.tile(waveform, 100), rate)
    process = start("-m", "engine", "transcribe", str(tmp_path / "long.wav"), "--threads", "2")
    time.sleep(after_s)
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.1)
    output, said = process.communicate(timeout=20)
    assert process.returncode == 128 + numbers[0]
    lines = [line for line in said.splitlines() if b"compiling kernels" not in line]
    assert output == b"" and len(lines) >= 1
    assert {line.partition(b";")[0] for line in lines} <= {b"engine: interrupted", b"engine: ended at once"}


def test_a_stream_that_is_interrupted_while_it_computes_still_says_its_last_words() -> None:
    samples, _ = sf.read(CLIP, dtype="int16")
    process = start("-m", "engine", "stream", "--passes", "1", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(samples.tobytes())
    process.stdin.flush()
    time.sleep(3)  # it reads, or computes
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and output.decode().strip().rstrip(".").endswith("mit")

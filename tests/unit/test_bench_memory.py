"""GPU memory: the driver's lines are read, the highest counts, and what is absent has a reason."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from benchmarks.measures import memory
from benchmarks.measures.memory import GpuWatch, parse_gpu_memory, peak_rss_mb


def test_lines_of_one_process_on_several_gpus_add_up() -> None:
    answer = "11, 500\n12, 300\n11, 24\n13, [N/A]\n"
    assert parse_gpu_memory(answer) == {11: 524.0, 12: 300.0, 13: None}


def test_a_number_that_is_missing_on_one_gpu_leaves_no_sum() -> None:
    assert parse_gpu_memory("11, 500\n11, [Not Supported]\n") == {11: None}
    assert parse_gpu_memory("11, [N/A]\n11, 500\n") == {11: None}


@pytest.mark.parametrize("answer", ["", "\n", "No running processes found", "pid, used [MiB]", "7", ","])
def test_what_is_no_such_line_is_left_out(answer: str) -> None:
    assert parse_gpu_memory(answer) == {}


def watch(*answers: str | Exception, times: Iterator[float] | None = None) -> GpuWatch:
    said = iter(answers)

    def ask() -> str:
        answer = next(said)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return GpuWatch(ask, (lambda: next(times)) if times else (lambda: 0.0))


def test_the_highest_sample_counts() -> None:
    found = watch("1, 100", "1, 900\n2, 5", "1, 300")
    for _ in range(3):
        found.sample(at_once=True)
    assert found.peak_mb(1) == (900.0, None)
    assert found.peak_mb(2) == (5.0, None)
    assert found.peak_mb(3) == (None, memory.NOT_LISTED)


def test_the_driver_is_not_asked_after_every_utterance() -> None:
    found = watch("1, 100", "1, 200", times=iter([0.0, 0.0, 1.0, 4.9, 5.1, 5.1]))
    for _ in range(4):
        found.sample()
    assert found.peak_mb(1) == (200.0, None)


def test_what_the_driver_does_not_count_is_said() -> None:
    found = watch("1, [N/A]")
    found.sample()
    assert found.peak_mb(1) == (None, memory.NOT_COUNTED)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (FileNotFoundError("nvidia-smi"), memory.NO_DRIVER),
        (subprocess.TimeoutExpired("nvidia-smi", 10), "nvidia-smi failed"),
        (subprocess.CalledProcessError(9, "nvidia-smi"), "nvidia-smi failed"),
    ],
)
def test_a_driver_that_does_not_answer_is_asked_once(failure: Exception, expected: str) -> None:
    found = watch(failure)
    for _ in range(3):
        found.sample(at_once=True)
    amount, reason = found.peak_mb(os.getpid())
    assert amount is None
    assert reason is not None
    assert reason.startswith(expected)


def test_the_peak_of_this_process_counts_what_was_freed() -> None:
    before = peak_rss_mb()
    block = bytearray(os.urandom(1) * (64 << 20))
    del block
    assert peak_rss_mb() >= max(before, 64)

"""Freed memory stays with the process: a step after the first asks the system for next to nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import numpy as np
from training.common.allocator import keep_freed_memory

if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit(77)

def step():
    blocks = [np.ones(size << 20, np.uint8) for size in (48, 36, 120, 20)]
    return sum(int(block[-1]) for block in blocks)

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(how: str) -> int:
    command = [sys.executable, "-P", "-c", STEPS, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode == 77:
        pytest.skip("this C library has no mallopt")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted on Linux")
def test_a_step_after_the_first_takes_its_memory_from_the_one_before() -> None:
    given_back, kept = count_faults("given back"), count_faults("kept")
    assert kept < 0.2 * given_back

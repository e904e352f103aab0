"""A wrong ENGINE_CPU_LEVEL is one line that names the fix, from everything that a user can start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from engine.kernels.vector.levels import _AVX2, VARIABLE

ROOT = Path(__file__).resolve().parents[2]
CLIP = "examples/audio/visit.flac"
# The processor of these processes has AVX2 at most; what they compile would run anywhere.
PROGRAM = """
import contextlib, io, json, sys
from engine.kernels.vector import levels

features = dict.fromkeys(sys.argv[1].split(), True)
levels.host_features = lambda: features
import benchmarks.cli, engine, engine.cli
from engine.decoding import CtcBeamDecoder

def decode():
    import numpy as np
    CtcBeamDecoder(["<pad>", "|", "a"]).decode(np.zeros((2, 3), np.float32), beam_width=4)

MAINS = {"engine": engine.cli.main, "engine-bench": benchmarks.cli.main}
CALLS = {"load": engine.load, "decode": decode}
found = []
for name, *arguments in json.loads(sys.argv[2]):
    out, err, raised, code = io.StringIO(), io.StringIO(), None, None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if name in MAINS:
                code = MAINS[name](arguments)
            else:
                CALLS[name](*arguments)
        except engine.EngineError as error:
            raised = type(error).__name__, str(error)
        except SystemExit as stopped:
            code = stopped.code
    found.append([code, out.getvalue(), err.getvalue(), raised])
print(json.dumps(found))
"""
COMMANDS = [
    ["engine", "info"],
    ["engine", "transcribe", CLIP],
    ["engine", "translate", CLIP],
    ["engine", "translate", "--text_file", "examples/manifest.tsv"],
    ["engine", "stream"],
    ["engine", "serve"],
    ["engine-bench", "--quiet"],
    ["engine-bench", "gate", "--baseline", "benchmarks/baselines/de-en-base.json", "--quiet"],
    ["engine-bench", "sweep", "--quiet"],
    ["engine-bench", "text", "examples/manifest.tsv", "--quiet"],
]
CALLS = [["load"], ["decode"]]
WRONG = {"amx": "DeviceError", "avx512": "DeviceError", "avx-vnni": "DeviceError", "avx9": "OptionError"}


@cache
def outcomes(level: str) -> list[list[object]]:
    """Exit code, stdout, stderr and error of each command and call, all in one process."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, " ".join(_AVX2), json.dumps([*COMMANDS, *CALLS])],
        cwd=ROOT, env={**os.environ, VARIABLE: level}, capture_output=True, text=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr  # no signal: nothing of a level that is not there is run
    found: list[list[object]] = json.loads(done.stdout)
    return found


def fix_of(level: str) -> str:
    lacking = f"{VARIABLE}={level}, which this processor or its system does not have"
    lacking += "; expected one of avx2, none"
    unknown = f"{VARIABLE}={level!r}; expected one of avx2, avx-vnni, avx512, amx, none"
    return f"{unknown if level == 'avx9' else lacking}; fix: unset the variable"


@pytest.mark.parametrize("level", WRONG)
@pytest.mark.parametrize("index", range(len(COMMANDS)), ids=[" ".join(command) for command in COMMANDS])
def test_commands_end_with_one_line(level: str, index: int) -> None:
    program = COMMANDS[index][0]
    code, out, err, raised = outcomes(level)[index]
    assert raised is None
    assert code == (2 if program == "engine-bench" else 1)
    assert out == ""
    assert isinstance(err, str)
    assert err.splitlines() == [f"{program}: {'error: ' if program == 'engine' else ''}{fix_of(level)}"]


@pytest.mark.parametrize("level", WRONG)
def test_calls_raise_a_typed_error(level: str) -> None:
    for *_, raised in outcomes(level)[len(COMMANDS) :]:
        assert raised == [WRONG[level], fix_of(level)]

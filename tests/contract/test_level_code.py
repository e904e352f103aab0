"""The machine code of each level holds its instructions and no others. Nothing compiled here is run."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.kernels.vector import levels

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    not levels.host_features(), reason="numba compiles for another architecture here"
)
Compiled = Callable[[str], tuple[list[str], dict[str, str]]]  # features of a level, and code by kernel
INTEGERS = {"multiply_rows", "attend_int8"}
# In the words of the assembler: registers, masks and encodings that came with AVX-512.
EVEX = re.compile(
    r"%zmm\d|%[xy]mm(1[6-9]|2\d|3[01])\b|\{%k\d|%k[0-7]\b|\{1to\d+\}|\{evex\}|\{sae\}|\{r[nduz]-sae\}"
)
CODE = """
import json, sys
import numba
import numpy as np
from engine.kernels.vector import levels

levels.host_features = lambda: dict.fromkeys(sys.argv[1].split(), True)
levels.may_use_matrix_unit = lambda: True
from pathlib import Path
from engine.kernels import _disk_cache
_disk_cache.SHIPPED = Path("nowhere")  # functions that are loaded do not show in the code of their callers
from engine.kernels.encoder import attention
from engine.kernels.features import log_mel
from engine.kernels.layers import rows
from engine.kernels.encoder.attention_int8 import attend_int8, quantize_values
from engine.kernels.seq2seq.cross_attention import Remembered, attend_remembered
from engine.kernels.layers.dense import multiply_rows, prepare_rows
from engine.native.buffers import make_codes
from engine.native.packing import pack_bf16, pack_int8

F32 = np.float32
any_codes = pack_int8(np.full((32, 32), 127, np.int8), np.ones(32, F32), None)
floats, halves = np.zeros(1, F32), np.zeros(1, np.uint16)
calls = {
    multiply_rows: (any_codes, 0, 0, 0, floats, floats, 0, 0),
    prepare_rows: (0, 0, 0, 0, 0, 0, floats, floats),
    attention.attend: (0, 0, 0, 0, 0, 0, 0, 0, 0, floats, halves, 0, 0),
    attend_int8: (make_codes(12, 32, 1, 32), 0, 0, 0, 0, 0, 0, 0),
    quantize_values: (0, 0, 0, 0, 0, 0, make_codes(12, 32, 1, 32)),
    attend_remembered: (0, 0, 0, Remembered(halves, halves, floats), 0, 0, floats, 0, 0),
    rows.normalize_row: (0, 0, 0, 0, 1e-5, 0),
    rows.gelu_row: (0, 0),
    log_mel.scale_log10: (floats, 1.0),
}
code = {}
for kernel, arguments in calls.items():
    if sys.argv[2:] and kernel.__name__ not in sys.argv[2:]:
        continue
    kernel.compile(tuple(numba.typeof(argument) for argument in arguments))
    (code[kernel.__name__],) = kernel.inspect_asm().values()
print(json.dumps([levels.active().features, code]))
"""
PROCESSORS = {
    "avx2": levels._AVX2,
    "avx-vnni": (*levels._AVX2, "avxvnni"),
    "avx-vnni of avx512": levels._AVX512,
    "avx512": (*levels._AVX512, levels.BF16_FEATURE),
    "avx512 without bfloat16": levels._AVX512,
    "amx": (*levels._AVX512, levels.BF16_FEATURE, *levels._AMX),
}
ONLY = {"amx": ["multiply_rows"]}  # the others' tiles are those of avx512


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    cache_folder = tmp_path_factory.mktemp("code")  # whole code is seen only where it was not cached

    @functools.cache
    def compile_for(processor: str) -> tuple[list[str], dict[str, str]]:
        place = {levels.VARIABLE: processor.split()[0], "NUMBA_CACHE_DIR": str(cache_folder)}
        command = [sys.executable, "-c", CODE, " ".join(PROCESSORS[processor]), *ONLY.get(processor, [])]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **place}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        features, code = json.loads(done.stdout)
        return features, code

    return compile_for


def holders(code: dict[str, str], pattern: re.Pattern[str] | str) -> set[str]:
    """Names of kernels whose code matches."""
    return {name for name, text in code.items() if re.search(pattern, text)}


@pytest.mark.parametrize("processor", ["avx2", "avx-vnni"])
def test_code_of_lower_levels_needs_no_avx_512(compiled: Compiled, processor: str) -> None:
    _, code = compiled(processor)
    assert holders(code, r"%ymm\d") == set(code)
    assert holders(code, EVEX) == set()


def test_whole_numbers_are_multiplied_by_what_the_level_has(compiled: Compiled) -> None:
    _, code = compiled("avx2")
    assert holders(code, "vpmaddubsw") == {"multiply_rows"}  # whose codes are pair-safe, or else widened
    assert holders(code, "vpmaddwd") == INTEGERS
    assert holders(code, "vpdp") == set()
    features, code = compiled("avx-vnni")
    assert features == ["+avxvnni"]
    assert holders(code, r"\{vex\}\s+vpdpbusd\s.*%ymm") == INTEGERS
    assert holders(code, r"vpmaddubsw|vpdpbf16ps|vdpbf16ps") == set()
    for processor in ("avx512", "avx512 without bfloat16"):
        _, code = compiled(processor)
        assert holders(code, r"vpdpbusd\s.*%zmm") == INTEGERS
        assert holders(code, r"vpmaddubsw|\{vex\}") == set()


def test_whole_tiles_are_multiplied_by_the_matrix_unit_where_there_is_one(compiled: Compiled) -> None:
    code = compiled("amx")[1]["multiply_rows"]
    shapes, products, back = (code.count(name) for name in ("ldtilecfg", "tdpbusd", "tilerelease"))
    assert products >= 6  # four of a tile of 24 rows, two of one of 12
    assert shapes == back > 0
    assert re.search(r"vpdpbusd\s.*%zmm", code)  # few rows
    for processor in PROCESSORS.keys() - {"amx"}:
        assert holders(compiled(processor)[1], r"\btile|\btdp|\bldtilecfg") == set()


def test_256_bit_products_of_avx_512_are_used_where_avx_vnni_is_absent(compiled: Compiled) -> None:
    features, code = compiled("avx-vnni of avx512")
    assert "+avxvnni" not in features
    assert holders(code, r"vpdpbusd\s.*%ymm") == INTEGERS
    assert holders(code, r"\{vex\}") == set()


def test_bfloat16_is_multiplied_by_the_processor_only_where_it_can(compiled: Compiled) -> None:
    assert holders(compiled("avx512")[1], r"vdpbf16ps\s.*%zmm") == {"multiply_rows", "attend"}
    for processor in PROCESSORS.keys() - {"avx512", "amx"}:
        assert holders(compiled(processor)[1], "bf16") == set()

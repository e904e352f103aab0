"""AMX: AVX-512, and a matrix unit for tiles of many rows (engine.kernels.vector.matrix_unit)."""

from __future__ import annotations

from engine.kernels.vector.avx512 import Avx512


class Amx(Avx512):
    """See Instructions."""

    has_matrix_unit = True


SUPPLIED = Amx()

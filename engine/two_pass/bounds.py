"""What a call of a decoder may ask for: checked here, because kernels do not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.bundle.schema import SecondPassConfig
from engine.errors import DecodingError

Ids = NDArray[np.int64]
F32Array = NDArray[np.float32]


class Bounds:
    """Rows and tokens of one utterance so far.

    Attributes:
        max_rows, max_tokens: as they were announced. n_rows: of the last call. n_tokens: of each row.
    """

    def __init__(self, config: SecondPassConfig, states: F32Array, max_rows: int, max_tokens: int) -> None:
        """Raises DecodingError: see engine.two_pass.runners.DecoderRunner.start."""
        if states.ndim != 2 or not len(states) or states.shape[1] != config.hidden_size:
            raise DecodingError(
                f"states of shape {states.shape}",
                f"[n_frames, {config.hidden_size}]",
                "pass what AcousticModel.compute_states gives",
            )
        if not 0 < max_tokens <= config.max_tokens or max_rows < 1:
            raise DecodingError(
                f"{max_rows} rows of {max_tokens} tokens",
                f"a row or more, of 1 to {config.max_tokens} tokens",
                "ask for fewer tokens",
            )
        self.config, self.max_rows, self.max_tokens = config, max_rows, max_tokens
        self.n_rows, self.n_tokens = 0, 0

    def prefill(self, ids: Ids) -> None:
        """Note the first call.

        Raises:
            DecodingError: not the first one, too many tokens, or ids that are none.
        """
        if self.n_tokens:
            raise DecodingError(
                "a second prefill", "one, before the steps", "start() again for another sequence"
            )
        if ids.ndim != 1 or not 0 < len(ids) <= self.max_tokens:
            raise DecodingError(
                f"first tokens of shape {ids.shape}",
                f"1 to {self.max_tokens} of one sequence",
                "announce more tokens in start()",
            )
        self._check_ids(ids)
        self.n_rows, self.n_tokens = 1, len(ids)

    def step(self, ids: Ids, parents: Ids) -> None:
        """Note a step.

        Raises:
            DecodingError: before the prefill, too many tokens or rows, or ids or parents that are none.
        """
        if not self.n_rows or self.n_tokens >= self.max_tokens:
            raise DecodingError(
                f"a step behind {self.n_tokens} tokens",
                f"one behind a prefill, and at most {self.max_tokens} tokens",
                "announce more tokens in start()",
            )
        if ids.ndim != 1 or ids.shape != parents.shape or not 0 < len(ids) <= self.max_rows:
            raise DecodingError(
                f"ids of shape {ids.shape} with parents of shape {parents.shape}",
                f"1 to {self.max_rows} rows of both",
                "announce more rows in start()",
            )
        self._check_ids(ids)
        if parents.min() < 0 or parents.max() >= self.n_rows:
            raise DecodingError(
                f"parents {parents.tolist()}",
                f"rows of the call before, which had {self.n_rows}",
                "pass the row that each row continues",
            )
        self.n_rows, self.n_tokens = len(ids), self.n_tokens + 1

    def _check_ids(self, ids: Ids) -> None:
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            raise DecodingError(
                f"token ids of {ids.min()} to {ids.max()}",
                f"0 to {self.config.vocab_size - 1}",
                "use the tokens of this model",
            )

"""How sure a word is: the decoder's probability and CTC's, through a calibration fitted on speech."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import BundleSchemaError

LIMIT = 8.0  # of a logit: 0.99966
NAMES = ("bias", "attention", "ctc")


def compute_logit(probability: float) -> float:
    """log(p / (1 - p)), within LIMIT of 0."""
    if probability <= 0.0:
        return -LIMIT
    if probability >= 1.0:
        return LIMIT
    return max(-LIMIT, min(LIMIT, math.log(probability / (1.0 - probability))))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Logistic regression over two logits; as it stands it gives the decoder's probability.

    Attributes:
        bias: added. attention, ctc: weights of the logits of the decoder's and CTC's probability of a word.
    """

    bias: float = 0.0
    attention: float = 1.0
    ctc: float = 0.0

    def apply(self, attention: float, ctc: float) -> float:
        """The probability, 0 to 1, that a word is right.

        Args:
            attention: the decoder's probability of its tokens. ctc: the mean peak of its letters.
        """
        logit = self.bias + self.attention * compute_logit(attention) + self.ctc * compute_logit(ctc)
        return 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, logit))))


def read_calibration(values: Mapping[str, Any]) -> Calibration:
    """The calibration of a manifest; empty gives the decoder's own probability.

    Raises:
        BundleSchemaError: a value that is no finite number; other names are left to later versions.
    """
    known = {name: values[name] for name in NAMES if name in values}
    for name, value in known.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BundleSchemaError(
                f"confidence {name} {value!r} in the manifest", "a finite number", "fit and export it again"
            )
    return Calibration(**{name: float(value) for name, value in known.items()})

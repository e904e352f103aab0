"""Outliers, which cost int8 most of its accuracy, moved to where they do no harm. Both rewrites are exact.

A few channels of a transformer have values far above all others, and activations share one scale.
After a layer norm the scale of each channel can move into the weights of the next layer (SmoothQuant).
Inside a feed-forward block it cannot pass the GELU, so the few units with outliers become a narrow
float32 block in addition to the int8 one.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from export.graph.linear import FloatArray, Linear
from export.graph.norm import LayerNorm

MAX_UNITS = 32
USUAL_PERCENTILE = 98.0
OUTLIER_RATIO = 2.0  # times the usual range
_SMALLEST = 1e-5


def smooth(norm: LayerNorm, linear: Linear, magnitudes: FloatArray) -> tuple[LayerNorm, Linear]:
    """Share the ranges of a norm's channels evenly between it and the layer that reads it.

    Args:
        magnitudes: the largest magnitude of each channel after the norm, float32 [n_channels].
    Returns:
        A norm and a layer that together compute the same as the given ones.
    """
    weights = np.abs(linear.weight).max(axis=1)
    factor = np.sqrt(np.maximum(magnitudes, _SMALLEST) / np.maximum(weights, _SMALLEST)).astype(np.float32)
    scaled = dataclasses.replace(norm, weight=norm.weight / factor, bias=norm.bias / factor)
    return scaled, dataclasses.replace(linear, weight=linear.weight * factor[:, None])


def find_outlier_units(magnitudes: FloatArray) -> NDArray[np.intp]:
    """The units, at most MAX_UNITS, whose range is far above the others'; often none."""
    usual = np.percentile(magnitudes, USUAL_PERCENTILE)
    largest = np.argsort(magnitudes)[::-1][:MAX_UNITS]
    return np.sort(largest[magnitudes[largest] > OUTLIER_RATIO * usual])


def split_units(
    feed_in: Linear, feed_out: Linear, units: NDArray[np.intp]
) -> tuple[tuple[Linear, Linear], tuple[Linear, Linear]]:
    """A feed-forward block as the sum of two: the other units (with the bias), and `units`."""
    rest = np.setdiff1d(np.arange(feed_in.weight.shape[1]), units)
    parts = []
    for chosen, bias in ((rest, feed_out.bias), (units, None)):
        first = Linear(feed_in.weight[:, chosen], None if feed_in.bias is None else feed_in.bias[chosen])
        parts.append((first, Linear(feed_out.weight[chosen], bias)))
    return parts[0], parts[1]

"""What a queue alone does to latency: requests arrive at random, cores serve one after the other."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from benchmarks.load.client import spread


def simulate_queue(
    service_s: NDArray[np.float64], share: float, cores: int, seed: int = 5
) -> dict[str, float]:
    """Latencies of Poisson arrivals, first come, first served, one core for each request.

    Args:
        service_s: float64 [n], seconds of each request on its core, in the order of arrival.
        share: of what the cores can do that arrives.
    Returns:
        See spread; in the unit of service_s.
    """
    rng = np.random.default_rng(seed)
    rate = share * cores / float(np.mean(service_s))
    arrivals = np.cumsum(rng.exponential(1 / rate, len(service_s)))
    free = [0.0] * cores
    latencies = []
    for arrival, seconds in zip(arrivals.tolist(), service_s.tolist(), strict=True):
        end = max(arrival, heapq.heappop(free)) + seconds
        heapq.heappush(free, end)
        latencies.append(end - arrival)
    found = spread(latencies)
    assert found is not None
    return found

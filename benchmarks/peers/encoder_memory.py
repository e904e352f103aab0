"""The most memory of each encoder: alone in a process, from its start to the end of one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.errors import PeerError
from benchmarks.protocol.client import PeerProcess
from benchmarks.protocol.driver import Roster

OPTION = "--model"


def alone(peers: Mapping[str, Roster]) -> dict[str, Roster]:
    """A process for each graph of peers that run several.

    Returns:
        By system, or by peer where it is not told graphs.
    """
    found: dict[str, Roster] = {}
    for peer, roster in peers.items():
        starts = [index for index, part in enumerate(roster.arguments) if part == OPTION]
        if not starts:
            found[peer] = roster
            continue
        ends, before = [*starts[1:], len(roster.arguments)], roster.arguments[: starts[0]]
        for start, end in zip(starts, ends, strict=True):
            arguments = before + roster.arguments[start:end]
            found[roster.arguments[start + 1]] = replace(roster, arguments=arguments)
    return found


def measure_memory(
    peers: Mapping[str, Roster], values: Any, systems: Sequence[str] | None = None
) -> dict[str, float | str]:
    """MiB by system: the peak of a process that loads it and runs it once; or why there is none.

    Args:
        peers: one for each process. values: float32 [batch, n_samples].
        systems: those to measure; None: all.
    """
    found: dict[str, float | str] = {}
    for name, roster in peers.items():
        try:
            process = PeerProcess(
                roster.script, python=roster.python, arguments=roster.arguments, threads=roster.threads
            )
        except PeerError as error:
            found[name] = str(error)
            continue
        try:
            process.load()
            for what in process.capabilities:
                if systems is None or what in systems:
                    answer = process.run(what, {"values": values})
                    found[what] = round(answer.peak_rss_mb or 0.0, 1)
        except PeerError as error:
            found[name] = str(error)
        finally:
            process.close()
    return found

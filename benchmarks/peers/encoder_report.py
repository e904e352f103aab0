"""The comparison itself: calls in turn, medians, ratios, and the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.errors import PeerError
from benchmarks.peers.encoder_systems import System


@dataclass
class Timing:
    """Seconds of every round, and the relative L2 error of the logits (None: it does not give them)."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    error: float | None = None


def measure(
    systems: Mapping[str, System],
    values: Path,
    expected: Any,
    rounds: int,
    lost: dict[str, str],
) -> dict[str, Any]:
    """Run every system in turn, `rounds` times, after one call of each that is not counted.

    Args:
        values: .npy of float32 [batch, n_samples] at 16 kHz.
        expected: the reference's logits.
        lost: takes what fails, with the reason; those are left out from then on.
    Returns:
        By system: rtfx_wall and rtfx_cpu (audio seconds over the median of seconds), error, seconds.
    """
    timings: dict[str, Timing] = {}
    for number in range(rounds + 1):
        for name, system in systems.items():
            if name in lost:
                continue
            try:
                answer = system.call(values, None if number else values.with_name("logits.npy"))
                if number == 0:
                    timings[name] = Timing(error=relative_error(answer.logits, expected))
                else:
                    timings[name].wall_s.append(answer.wall_s)
                    timings[name].cpu_s.append(answer.cpu_s)
            except PeerError as error:
                lost[name] = str(error)
    audio_s = np.load(values, mmap_mode="r").size / 16_000
    return {name: figures(timing, audio_s) for name, timing in timings.items() if name not in lost}


def by_reason(lost: Mapping[str, str]) -> dict[str, str]:
    """One entry for all that one cause took away: "system, system" to the reason."""
    names: dict[str, list[str]] = {}
    for name, reason in lost.items():
        names.setdefault(reason, []).append(name)
    return {", ".join(group): reason for reason, group in names.items()}


def relative_error(logits: Any, expected: Any) -> float | None:
    """Relative L2 error; None without logits.

    Raises:
        PeerError: another number of frames or outputs than the reference has.
    """
    if logits is None:
        return None
    if logits.shape != expected.shape:
        raise PeerError(f"logits {logits.shape} instead of {expected.shape}: not the same model")
    return float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))


def figures(timing: Timing, audio_s: float) -> dict[str, Any]:
    """Real-time factors of the medians; the seconds themselves are kept."""
    return {
        "rtfx_wall": round(audio_s / float(np.median(timing.wall_s)), 3),
        "rtfx_cpu": round(audio_s / max(float(np.median(timing.cpu_s)), 1e-9), 3),
        "error": timing.error,
        "wall_s": [round(seconds, 5) for seconds in timing.wall_s],
        "cpu_s": [round(seconds, 5) for seconds in timing.cpu_s],
    }


def ratios(cases: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """How many times as fast each of ours is as each other system: geometric mean over the cases, CPU time.

    Only systems with a figure in every case take part.
    """
    common = set.intersection(*(set(case) for case in cases.values())) if cases else set()
    names = [name for name in next(iter(cases.values()), {}) if name in common]
    speed = {name: np.log([case[name]["rtfx_cpu"] for case in cases.values()]) for name in names}
    return {
        ours: {name: round(float(np.exp((speed[ours] - speed[name]).mean())), 3) for name in names}
        for ours in names
        if ours.startswith("ours")
    }


def merge(report: dict[str, Any], previous: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the cases of an earlier run with the same signature, so that long runs can be cut."""
    if previous.get("signature") == report["signature"] and previous.get("peers") == report["peers"]:
        report["cases"] = {**previous["cases"], **report["cases"]}
        report["runs"] = [*previous.get("runs", []), *report.get("runs", [])]
        report["ratios"] = ratios(report["cases"])
        report["left_out"] = {**previous["left_out"], **report["left_out"]}
    return report


def render(report: Mapping[str, Any]) -> str:
    """A table: real-time factors by CPU time (wall time in brackets), and errors."""
    lines = [report["signature"]]
    for case, systems in report["cases"].items():
        lines.append(f"\n{case:34s}{'RTFx, CPU (wall)':>18s}{'error':>10s}")
        for name, row in systems.items():
            rates = f"{row['rtfx_cpu']:.1f} ({row['rtfx_wall']:.1f})"
            error = "-" if row["error"] is None else f"{row['error']:.2g}"
            lines.append(f"  {name:32s}{rates:>18s}{error:>10s}")
    for ours, others in report["ratios"].items():
        lines.append(f"\n{ours} is so many times as fast, geometric mean over the cases, by CPU time:")
        lines += [f"  {name:32s}{ratio:>8.2f}" for name, ratio in others.items() if name != ours]
    if report["left_out"]:
        lines.append("\nleft out:")
        lines += [f"  {name}: {reason}" for name, reason in report["left_out"].items()]
    return "\n".join(lines)

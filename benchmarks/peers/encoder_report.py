"""The encoder comparison's figures: the check of the logits, medians, ratios, and the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.errors import WrongOutputError
from benchmarks.protocol.driver import Driver, Timing, finite

SAMPLE_RATE = 16_000
MAX_ERROR = 0.9  # zeros in place of logits have 1


def measure(driver: Driver, values: Any, expected: Any, rounds: int) -> dict[str, Any]:
    """Run every system in turn, `rounds` times, after one call of each that is not timed.

    Args:
        values: float32 [batch, n_samples] at 16 kHz.
        expected: the reference's logits.
    Returns:
        By system: rtfx_wall and rtfx_cpu (audio seconds over the median of seconds), error, seconds.
    """
    timings = driver.run([{"values": values}], rounds, lambda _, outputs: check(outputs, expected))
    return {name: figures(timing, values.size / SAMPLE_RATE) for name, timing in timings.items()}


def check(outputs: Mapping[str, Any], expected: Any) -> float | None:
    """Relative L2 error of the logits; None of a peer that returns the number of tokens instead.

    Raises:
        WrongOutputError: not the logits of the same model.
    """
    if "logits" not in outputs:
        if len(outputs.get("tokens", ())) != len(expected):
            raise WrongOutputError("neither logits nor tokens for every utterance", "one of them")
        return None
    error = relative_error(finite("logits", outputs["logits"]), expected)
    if error > MAX_ERROR:
        raise WrongOutputError(f"logits with a relative error of {error:.2g}: not the same model")
    return error


def relative_error(logits: Any, expected: Any) -> float:
    """Relative L2 error.

    Raises:
        WrongOutputError: another number of frames or outputs than the reference has.
    """
    if logits.shape != expected.shape:
        raise WrongOutputError(f"logits {logits.shape} instead of {expected.shape}: not the same model")
    return float(np.linalg.norm(logits - expected) / np.linalg.norm(expected))


def figures(timing: Timing, audio_s: float) -> dict[str, Any]:
    """Real-time factors of the medians, and the seconds."""
    wall_s, cpu_s = timing.rounds_s("wall_s"), timing.rounds_s("cpu_s")
    return {
        "rtfx_wall": round(audio_s / float(np.median(wall_s)), 3),
        "rtfx_cpu": round(audio_s / max(float(np.median(cpu_s)), 1e-9), 3),
        "error": timing.error,
        "wall_s": [round(seconds, 5) for seconds in wall_s],
        "cpu_s": [round(seconds, 5) for seconds in cpu_s],
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
    """Take the cases of an earlier run with the same signature, so that long runs can be split."""
    if previous.get("signature") == report["signature"] and previous.get("peers") == report["peers"]:
        report["cases"] = {**previous["cases"], **report["cases"]}
        report["runs"] = [*previous.get("runs", []), *report.get("runs", [])]
        report["ratios"] = ratios(report["cases"])
        memory = {**previous.get("memory_mb", {}), **report.get("memory_mb", {})}
        report |= {"memory_mb": memory} if memory else {}
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
        lines.append(
            f"\nspeed of {ours} divided by that of others, geometric mean over the cases, by CPU time:"
        )
        lines += [f"  {name:32s}{ratio:>8.2f}" for name, ratio in others.items() if name != ours]
    for case, found in report.get("memory_mb", {}).items():
        lines.append(f"\nmost memory of a process of its own that runs {case}, MiB:")
        lines += [f"  {name:32s}{amount!s:>8s}" for name, amount in found.items()]
    if report["left_out"]:
        lines.append("\nleft out:")
        lines += [f"  {name}: {reason}" for name, reason in report["left_out"].items()]
    return "\n".join(lines)

"""Better, the same or worse than a baseline: a decision that does not depend on chance or a busy machine.

A regression is a change that is larger than allowed and that chance does not explain. Quality: paired
bootstrap over utterances. Speed: times in units of the reference kernel, utterance by utterance, with
the spread between passes in the interval. CPU time is judged, and wall time only where the reference
kernel, which never waits, had the core to itself: other programs increase wall time, but only wall time
shows a lock or a sleep.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.errors import BaselineError
from benchmarks.measures.bootstrap import Interval, rate_difference, statistic_difference
from benchmarks.measures.metrics import bleu_from_counts
from benchmarks.measures.speed import CLOCKS, Slowdown, compare_speed
from benchmarks.reports.summary import SCHEMA_VERSION

Verdict = Literal["pass", "regression", "undecided"]
NEEDED = ("schema_version", "signature", "task", "data", "settings", "environment", "utterances")
SAME_SETTINGS = ("threads", "device", "beam_size", "translation_beam_size", "passes")
SAME_SIGNED = {"reference": "reference kernel", "norm": "text normaliser"}
MIN_UTTERANCES = 3
SHARED_CORE = 0.05  # more waiting for the core than this share is caused by other programs
# Distance of a slowdown from none, in half intervals: three standard errors. At two, one in forty runs of the
# same code would fail a build.
CERTAIN = 1.5
WILD = 0.15  # half an interval, as a share; a quiet machine has 0.02


@dataclass(frozen=True, slots=True)
class Limits:
    """What is still acceptable.

    Attributes:
        max_wer_increase: in WER as a fraction; 0.005 is half a point.
        max_bleu_decrease: in BLEU points.
        max_slowdown: share of the baseline's time; 0.05 is five percent.
        machine_tolerance: added to max_slowdown when the baseline comes from another processor:
            the reference kernel then says which machine is faster, but not exactly for this program.
        confidence: of the two-sided intervals.
    """

    max_wer_increase: float = 0.005
    max_bleu_decrease: float = 1.0
    max_slowdown: float = 0.05
    machine_tolerance: float = 0.25
    confidence: float = 0.95


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was judged.

    Attributes:
        name: WER, BLEU, CPU time, wall time or failed files.
        verdict: pass, regression or undecided.
        change: the estimate with its interval, in words.
        allowed: the limit, in words.
    """

    name: str
    verdict: Verdict
    change: str
    allowed: str


def load_result(path: Path) -> dict[str, Any]:
    """Read a result file that `engine-bench --json` wrote.

    Raises:
        BaselineError: it is missing, not such a file, or of another version.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BaselineError(f"no result file {path}", fix="make one with --update or --json") from None
    except (OSError, ValueError) as error:
        raise BaselineError(f"{path} cannot be read ({error})", "JSON of engine-bench") from error
    missing = [key for key in NEEDED if key not in result] if isinstance(result, dict) else list(NEEDED)
    if missing:
        raise BaselineError(f"{path} lacks {', '.join(missing)}", "JSON of engine-bench --json")
    if result["schema_version"] != SCHEMA_VERSION:
        got = result["schema_version"]
        raise BaselineError(f"{path} has schema version {got!r}", str(SCHEMA_VERSION), "measure it again")
    return dict(result)


def judge(
    current: Mapping[str, Any], baseline: Mapping[str, Any], limits: Limits | None = None
) -> list[Finding]:
    """Compare a run with a baseline over the same data.

    Raises:
        BaselineError: they cannot be compared; the message lists every difference.
    """
    limits = limits or Limits()
    _check_comparable(current, baseline)
    now, then = _paired(current, baseline)
    findings = [_judge_failures(current, baseline), _judge_wer(now, then, limits)]
    # A clip without speech has no English reference.
    scored = [(a, b) for a, b in zip(now, then, strict=True) if "bleu_counts" in a and "bleu_counts" in b]
    if scored:
        findings.append(_judge_bleu([a for a, _ in scored], [b for _, b in scored], limits))
    other_machine = _is_other_machine(current["environment"], baseline["environment"])
    allowed = limits.max_slowdown + (limits.machine_tolerance if other_machine else 0.0)
    slowdowns = [compare_speed(now, then, clock) for clock in CLOCKS]
    speed = [_judge_speed(slowdown, allowed, other_machine) for slowdown in slowdowns]
    change = None
    if other_machine and _arithmetic(current) != _arithmetic(baseline):
        change = "the model uses other arithmetic on this processor"
    elif _differs(current["environment"], baseline["environment"], "level"):
        change = f"another instruction set level than the baseline's {baseline['environment']['level']}"
    if change:
        speed = [replace(finding, verdict="undecided", change=change) for finding in speed]
    return findings + speed


def _is_other_machine(current: Mapping[str, Any], baseline: Mapping[str, Any]) -> bool:
    return any(_differs(current, baseline, name) for name in ("cpu", "vector_units", "level"))


def _differs(current: Mapping[str, Any], baseline: Mapping[str, Any], name: str) -> bool:
    """Whether the environment differs; older baselines do not contain everything."""
    return baseline.get(name) is not None and current.get(name) != baseline[name]


def _signed(result: Mapping[str, Any], name: str) -> str:
    """A part of the signature, such as the version of the normaliser or of the reference kernel."""
    parts = dict(part.partition(":")[::2] for part in result["signature"].split("|"))
    return str(parts.get(name, "none"))


def _arithmetic(result: Mapping[str, Any]) -> list[str]:
    """Precision and backend of the models, from a signature."""
    return [part for part in result["signature"].split("|") if part.partition(":")[0] in ("acoustic", "mt")]


def verdict_of(findings: Sequence[Finding]) -> Verdict:
    """The gate's decision: any regression fails; speed passes if at least one clock could be judged."""
    verdicts = [finding.verdict for finding in findings]
    if "regression" in verdicts:
        return "regression"
    speed = [finding.verdict for finding in findings if finding.name.endswith("time")]
    return "pass" if "pass" in speed else "undecided"


def _check_comparable(current: Mapping[str, Any], baseline: Mapping[str, Any]) -> None:
    differences = []
    if current["task"] != baseline["task"]:
        differences.append(f"task {current['task']}, baseline {baseline['task']}")
    if current["data"]["digest"] != baseline["data"]["digest"]:
        differences.append("other audio or references than the baseline's")
    for name in SAME_SETTINGS:
        got, want = current["settings"].get(name), baseline["settings"].get(name)
        if got != want:
            differences.append(f"{name} {got}, baseline {want}")
    for part, name in SAME_SIGNED.items():
        got, want = _signed(current, part), _signed(baseline, part)
        if got != want:
            differences.append(f"{name} {got}, baseline {want}")
    if differences:
        raise BaselineError(
            "not comparable with the baseline: " + "; ".join(differences),
            "the same data, task and settings",
            "pass the baseline's settings, or renew it with --update",
        )


def _paired(
    current: Mapping[str, Any], baseline: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The utterances that both runs measured, in the same order."""
    then = {row["id"]: row for row in baseline["utterances"]}
    now = [row for row in current["utterances"] if row["id"] in then]
    if len(now) < MIN_UTTERANCES:
        raise BaselineError(f"{len(now)} utterances in common", f"at least {MIN_UTTERANCES}", "use more data")
    return now, [then[row["id"]] for row in now]


def _judge_failures(current: Mapping[str, Any], baseline: Mapping[str, Any]) -> Finding:
    before = {item["id"] for item in baseline.get("failures", [])}
    new = sorted({item["id"] for item in current.get("failures", [])} - before)
    change = f"{len(new)} new" + (f": {', '.join(new[:3])}" if new else "")
    return Finding("failed files", "regression" if new else "pass", change, "0 new")


def _counts(rows: Sequence[Mapping[str, Any]], key: str) -> Any:
    return np.array([row[key] for row in rows], dtype=np.int64)


def _judge_wer(
    now: Sequence[Mapping[str, Any]], then: Sequence[Mapping[str, Any]], limits: Limits
) -> Finding:
    mine, theirs = _counts(now, "word_errors"), _counts(then, "word_errors")
    change = rate_difference(
        mine[:, :3].sum(axis=1), theirs[:, :3].sum(axis=1), theirs[:, 3], limits.confidence
    )
    if change is None:
        more = int(mine[:, 2].sum() - theirs[:, 2].sum())
        return Finding("invented words", "regression" if more > 0 else "pass", f"{more:+d}", "+0")
    worse = change.value > limits.max_wer_increase and change.low > 0
    words = f"{100 * change.value:+.2f} points {_range(change, 100)}"
    return Finding(
        "WER", "regression" if worse else "pass", words, f"{100 * limits.max_wer_increase:+.2f} points"
    )


def _judge_bleu(
    now: Sequence[Mapping[str, Any]], then: Sequence[Mapping[str, Any]], limits: Limits
) -> Finding:
    change = statistic_difference(
        _counts(now, "bleu_counts"), _counts(then, "bleu_counts"), bleu_from_counts, limits.confidence
    )
    worse = change.value < -limits.max_bleu_decrease and change.high < 0
    words = f"{change.value:+.2f} {_range(change, 1)}"
    return Finding("BLEU", "regression" if worse else "pass", words, f"{-limits.max_bleu_decrease:+.2f}")


def _judge_speed(slowdown: Slowdown, allowed: float, other_machine: bool) -> Finding:
    ratio = slowdown.ratio
    words = f"{100 * (ratio.value - 1):+.1f} % {_range(Interval(0, ratio.low - 1, ratio.high - 1), 100)}"
    if slowdown.clock == "wall" and slowdown.waiting > SHARED_CORE:
        words += f", other programs had the core for {100 * slowdown.waiting:.0f} % of the time"
    elif slowdown.noise_floor is None:
        words += ", one pass: noise unknown"
    else:
        words += f", noise floor {100 * slowdown.noise_floor:.1f} %"
    limit = f"{100 * allowed:+.1f} %" + (" (other processor)" if other_machine else "")
    name = "CPU time" if slowdown.clock == "cpu" else "wall time"
    return Finding(name, _speed_verdict(slowdown, allowed), words, limit)


def _speed_verdict(slowdown: Slowdown, allowed: float) -> Verdict:
    if slowdown.noise_floor is None or (slowdown.clock == "wall" and slowdown.waiting > SHARED_CORE):
        return "undecided"
    ratio, half_width = slowdown.ratio, slowdown.half_width
    if half_width <= allowed:  # precise enough to see a slowdown of the size that matters
        if ratio.value <= 1 + allowed:
            return "pass"
        return "regression" if ratio.value > (1 + half_width) ** CERTAIN else "undecided"
    # On a noisy machine: more than noise and limit together; on a very noisy one, much more.
    low = ratio.low if half_width <= WILD else ratio.value / (1 + half_width) ** 1.5
    if low > 1 + allowed:
        return "regression"
    return "undecided" if ratio.high > 1 + allowed else "pass"


def _range(interval: Interval, scale: float) -> str:
    return f"[{scale * interval.low:+.2f}, {scale * interval.high:+.2f}]"

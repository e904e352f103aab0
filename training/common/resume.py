"""Whether a checkpoint belongs to the run that resumes from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.common.checkpoint import CheckpointError, State

FIX = "give the settings of the run that wrote it, or another output folder for a new run"


def check_identity(place: Path, model: Any, state: State, wanted: Mapping[str, Any]) -> None:
    """Compare a checkpoint with the current run.

    Args:
        place: of the checkpoint, for the message.
        model: its parameters' names and shapes are compared.
        state: what the checkpoint holds; `identity` is missing in those of older versions.
        wanted: the run's settings that must be the same.
    Raises:
        CheckpointError: they differ; all differences are named.
    """
    written = state.get("identity", {})
    problems = [
        f"{name} was {written[name]!r}, is {value!r}"
        for name, value in wanted.items()
        if name in written and written[name] != value
    ]
    problems += _compare_shapes(state.get("model", {}), model.state_dict())
    if problems:
        raise CheckpointError(f"{place} belongs to another run: {'; '.join(problems)}", "the same", FIX)


def _compare_shapes(written: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    missing, extra = sorted(wanted.keys() - written.keys()), sorted(written.keys() - wanted.keys())
    problems = [f"the checkpoint lacks {len(missing)} tensors, such as {missing[0]}"] if missing else []
    problems += [f"the model lacks {len(extra)} tensors, such as {extra[0]}"] if extra else []
    shapes = [
        (name, tuple(written[name].shape), tuple(wanted[name].shape))
        for name in wanted.keys() & written.keys()
        if written[name].shape != wanted[name].shape
    ]
    if shapes:
        name, old, new = min(shapes)
        problems.append(f"{len(shapes)} tensors have other sizes: {name} was {old}, is {new}")
    return problems


def describe_changes(written: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Report settings that have changed since a checkpoint and may change."""
    return [
        f"{name} was {written[name]!r}, is {value!r} from here on"
        for name, value in wanted.items()
        if name in written and written[name] != value
    ]

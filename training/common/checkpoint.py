"""Checkpoints of training runs: written completely or not at all; after damage the one before is used."""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from engine.errors import EngineError

LOGGER = logging.getLogger("training.common.checkpoint")
State = dict[str, Any]


class CheckpointError(EngineError, ValueError):
    """A checkpoint that cannot be read, or that belongs to another run."""


class CheckpointStore(Protocol):
    """Where a run keeps its states."""

    def save(self, state: State) -> Path:
        """Write a state; state["progress"]["step"] is its step. OSError where it cannot be written."""

    def find(self) -> list[Path]:
        """Places of the states, newest first."""

    def read(self, place: Path, device: torch.device | str) -> State:
        """Read one; CheckpointError where it is truncated or damaged."""

    def set_aside(self, place: Path) -> None:
        """Rename a damaged checkpoint: it is not read again, and does not replace a good one."""


def write_state(path: Path, state: State) -> None:
    """Write a state and wait until it is on the disk.

    Raises:
        OSError: it could not be written completely.
    """
    try:
        torch.save(state, path)
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    except RuntimeError as error:  # torch's own writer has no OSError for a full disk
        raise OSError(f"{path}: the checkpoint could not be written completely ({error})") from error


def read_state(path: Path, device: torch.device | str) -> State:
    """Read what `write_state` wrote.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, or has more than tensors and plain values.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path} is truncated or damaged ({reason})",
            "a complete checkpoint",
            "remove it, or start a new run",
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}", "a checkpoint of this command")
    return state


def read_newest(store: CheckpointStore, device: torch.device | str) -> tuple[Path, State] | None:
    """Read the newest complete state; damaged ones are renamed, with a warning.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged.
    """
    places = store.find()
    for number, place in enumerate(places):
        try:
            state = store.read(place, device)
        except CheckpointError as error:
            if number + 1 == len(places):
                raise
            LOGGER.warning("%s; the one before it is used: %s", error.got, places[number + 1])
            store.set_aside(place)
            continue
        return place, state
    return None


def replace_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a folder, under a temporary name until it is complete."""
    partial, old = (folder.with_name(f"{folder.name}.{ending}") for ending in ("part", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.replace(old)
    partial.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


class LastCheckpoints:
    """The last state and the one before it, as one file each: `state.pt` and `state.old.pt`."""

    def __init__(self, path: Path) -> None:
        self.path, self.old = path, path.with_name(f"{path.stem}.old{path.suffix}")

    def save(self, state: State) -> Path:
        """See CheckpointStore."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f"{self.path.name}.part")
        write_state(partial, state)
        if self.path.exists():
            self.path.replace(self.old)
        partial.replace(self.path)
        return self.path

    def find(self) -> list[Path]:
        """See CheckpointStore."""
        return [path for path in (self.path, self.old) if path.exists()]

    def read(self, place: Path, device: torch.device | str) -> State:
        """See CheckpointStore."""
        return read_state(place, device)

    def set_aside(self, place: Path) -> None:
        """See CheckpointStore."""
        place.replace(place.with_name(f"{place.name}.damaged"))


class LastFolders:
    """The same as folders, `checkpoint` and `checkpoint.old`: state.pt, and position.json for people."""

    def __init__(self, path: Path) -> None:
        self.path, self.old = path, path.with_name(f"{path.name}.old")

    def save(self, state: State) -> Path:
        """See CheckpointStore."""
        partial = self.path.with_name(f"{self.path.name}.part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_state(partial / "state.pt", state)
        (partial / "position.json").write_text(json.dumps(state["progress"]), encoding="utf-8")
        if self.path.exists():
            shutil.rmtree(self.old, ignore_errors=True)
            self.path.replace(self.old)
        partial.replace(self.path)
        return self.path

    def find(self) -> list[Path]:
        """See CheckpointStore."""
        return [path for path in (self.path, self.old) if (path / "position.json").exists()]

    def read(self, place: Path, device: torch.device | str) -> State:
        """See CheckpointStore; position.json has the position of the run."""
        state = read_state(place / "state.pt", device)
        try:
            position = json.loads((place / "position.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{place / 'position.json'} is damaged ({error})") from error
        return {**state, "progress": position}

    def set_aside(self, place: Path) -> None:
        """See CheckpointStore."""
        damaged = place.with_name(f"{place.name}.damaged")
        shutil.rmtree(damaged, ignore_errors=True)
        place.replace(damaged)


class NumberedCheckpoints:
    """The last `kept` states as files named by step: `step_00000100.pt`; they can be averaged."""

    def __init__(self, folder: Path, kept: int) -> None:
        self.folder, self.kept = folder, max(2, kept)  # one more in case the last is damaged

    def save(self, state: State) -> Path:
        """See CheckpointStore."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{state['progress']['step']:08d}.pt"
        partial = path.with_suffix(".part")
        write_state(partial, state)
        partial.replace(path)
        for old in self.find()[self.kept :]:
            old.unlink()
        return path

    def find(self) -> list[Path]:
        """See CheckpointStore."""
        return sorted(self.folder.glob("step_*.pt"), reverse=True)

    def read(self, place: Path, device: torch.device | str) -> State:
        """See CheckpointStore."""
        return read_state(place, device)

    def set_aside(self, place: Path) -> None:
        """See CheckpointStore."""
        place.replace(place.with_suffix(".damaged"))


def read_random_states() -> State:
    """The states of all global random generators: torch's (dropout), numpy's, Python's."""
    name, keys, at, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 (libraries draw from it)
    state: State = {
        "torch": torch.get_rng_state(),
        "numpy": json.dumps([name, np.asarray(keys).tolist(), int(at), int(has_gauss), float(gauss)]),
        "python": json.dumps(random.getstate()),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_states(state: State) -> None:
    """Set what `read_random_states` returned."""
    torch.set_rng_state(state["torch"].cpu())
    name, keys, at, has_gauss, gauss = json.loads(state["numpy"])
    np.random.set_state((name, np.array(keys, np.uint32), at, has_gauss, gauss))  # noqa: NPY002
    version, numbers, gauss_next = json.loads(state["python"])
    random.setstate((version, tuple(numbers), gauss_next))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())

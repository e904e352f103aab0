"""The peer's side of the protocol: runs in the peer's own environment, with the standard library and numpy.

A peer's script describes itself as a Peer and calls serve(). benchmarks/peers/README.md has the protocol and
an example.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PROTOCOL = 1
RECORD = "instruction_set.json"  # in an environment that benchmarks.peers.lower changed
LEVEL_VARIABLES = (
    "ONEDNN_MAX_CPU_ISA",
    "CT2_FORCE_CPU_ISA",
    "CT2_USE_MKL",
    "MKL_ENABLE_INSTRUCTIONS",
    "ATEN_CPU_CAPABILITY",
    "NPY_DISABLE_CPU_FEATURES",
    "OPENBLAS_CORETYPE",
    "GLIBC_TUNABLES",
)
# Inputs by name -> outputs by name. Values are JSON or numpy arrays. A function in place of the outputs is
# called after the clock has stopped and returns them.
Run = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Loaded:
    """A loaded model.

    Attributes:
        runs: what can be run, by the names that the peer's capabilities announced.
        settings: what else the signature names, in order; numbers and short texts.
    """

    runs: Mapping[str, Run]
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """What a script says about its peer.

    Attributes:
        name: of the peer.
        kind: "encoder", "speech", "decoding", "translation" or "features".
        version: the libraries with their versions, such as "openvino 2026.4.0".
        configure: adds the script's own options; --threads is there already (0: the peer's default).
        capabilities: from the options, the names that a run request may ask for. Cheap: no model is loaded.
        load: from the options, the loaded model. Whatever it raises goes to the driver as the reason.
    """

    name: str
    kind: str
    version: str
    configure: Callable[[argparse.ArgumentParser], None]
    capabilities: Callable[[argparse.Namespace], Sequence[str]]
    load: Callable[[argparse.Namespace], Loaded]


def serve(peer: Peer) -> None:
    """Answer requests, one JSON object a line, until one says "end" or the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a native library prints must not mix with the answers
    parser = argparse.ArgumentParser(prog=peer.name)
    parser.add_argument("--threads", type=int, default=0)
    peer.configure(parser)
    session = _Session(peer, parser.parse_args())
    for answer in session.answer_all(sys.stdin):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class RequestError(ValueError):
    """A request that this peer cannot understand."""


class _Session:
    """One peer's state between requests."""

    def __init__(self, peer: Peer, options: argparse.Namespace) -> None:
        self.peer, self.options = peer, options
        self.loaded: Loaded | None = None

    def answer_all(self, lines: Iterable[str]) -> Iterable[dict[str, Any]]:
        """One answer for each request; an error is an answer too and ends nothing."""
        for line in lines:
            request: dict[str, Any] = {}
            try:
                request = dict(json.loads(line))
                found = self.answer(request)
            except Exception as error:
                kind = _kind_of(error, str(request.get("ask")))
                found = {"error": {"type": kind, "message": reason(error)}}
            yield {"id": request.get("id"), **found}
            if request.get("ask") == "end":
                return

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        ask = request.get("ask")
        if ask == "hello":
            return self.hello()
        if ask == "load":
            return self.load()
        if ask == "run":
            return self.run(request)
        if ask == "end":
            return {}
        raise RequestError(f"ask {ask!r} is none of hello, load, run, end")

    def hello(self) -> dict[str, Any]:
        threads = self.options.threads or "default"
        settings = {"threads": threads, "level": level(), "python": platform.python_version()}
        return {
            "protocol": PROTOCOL,
            "name": self.peer.name,
            "kind": self.peer.kind,
            "version": self.peer.version,
            "capabilities": list(self.peer.capabilities(self.options)),
            "settings": settings,
        }

    def load(self) -> dict[str, Any]:
        start = time.perf_counter()
        self.loaded = self.peer.load(self.options)
        load_time_s = time.perf_counter() - start
        announced = set(self.peer.capabilities(self.options))
        if set(self.loaded.runs) != announced:
            raise RequestError(f"loaded {sorted(self.loaded.runs)}, announced {sorted(announced)}")
        settings = {name: str(value) for name, value in self.loaded.settings.items()}
        return {"load_time_s": load_time_s, "settings": settings}

    def run(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if self.loaded is None:
            raise RequestError("run before load")
        what = request.get("what")
        if not isinstance(what, str) or what not in self.loaded.runs:
            raise RequestError(f"{what!r} is none of {', '.join(self.loaded.runs)}")
        folder = Path(request["folder"])
        outputs, wall_s, cpu_s = timed(self.loaded.runs[what], unpack(request["inputs"]))
        if callable(outputs):
            outputs = outputs()
        return {
            "outputs": pack(outputs, folder, "out"),
            "wall_s": wall_s,
            "cpu_s": cpu_s,
            "peak_rss_mb": peak_rss_mb(),
        }


def peak_rss_mb() -> float:
    """The most memory of this process so far, in MiB.

    Linux hands the parent's peak in ru_maxrss on to a program that it starts; VmHWM is the program's own.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    own = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return (own[0] if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024


def timed(run: Callable[[Any], Any], inputs: Any) -> tuple[Any, float, float]:
    """One call: what it returns, wall seconds, and CPU seconds of every thread of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = run(inputs)
    cpu_s = time.process_time() - cpu
    return found, time.perf_counter() - wall, cpu_s


def pack(values: Mapping[str, Any], folder: Path, prefix: str) -> dict[str, Any]:
    """Values for a JSON line: an array becomes {"npy": PATH} of a file in the folder."""
    packed: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            path = folder / f"{prefix}_{name}.npy"
            np.save(path, value, allow_pickle=False)
            packed[name] = {"npy": str(path)}
        else:
            packed[name] = value
    return packed


def unpack(values: Mapping[str, Any]) -> dict[str, Any]:
    """The opposite of pack."""
    return {
        name: np.load(value["npy"], allow_pickle=False)
        if isinstance(value, dict) and "npy" in value
        else value
        for name, value in values.items()
    }


def level(prefix: Path | None = None) -> str:
    """Which vector instructions this process was told to use, for a signature.

    Args:
        prefix: of the environment; the interpreter's own where None.
    Returns:
        Such as "avx2 in libraries of openvino + ONEDNN_MAX_CPU_ISA=AVX2"; "processor's own".
    """
    record = (Path(sys.prefix) if prefix is None else prefix) / RECORD
    parts = [f"{name}={os.environ[name]}" for name in LEVEL_VARIABLES if os.environ.get(name)]
    if record.exists():
        lowered = json.loads(record.read_text(encoding="utf-8"))
        parts.insert(0, f"{lowered['level']} in libraries of {' '.join(lowered['packages'])}")
    return " + ".join(parts) or "processor's own"


def reason(error: BaseException) -> str:
    """An exception in one line of at most 300 characters."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


def _kind_of(error: Exception, ask: str) -> str:
    """The type of an error answer: not_installed, not_loaded, bad_request or failed."""
    if isinstance(error, RequestError | json.JSONDecodeError):
        return "bad_request"
    if isinstance(error, ImportError):
        return "not_installed"
    return "not_loaded" if ask == "load" else "failed"

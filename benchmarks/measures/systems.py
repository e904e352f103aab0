"""Whatever can be measured: the engine, or a peer, behind one small interface."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from benchmarks.errors import PeerError
from benchmarks.measures.memory import peak_rss_mb
from benchmarks.measures.reference import Clock
from engine.options import Device, Passes

STAGES = ("audio", "features", "encoder", "decode", "second_pass", "punctuate", "translate")
TASKS = ("transcribe", "translate")
PEERS = Path(__file__).parents[1] / "peers" / "speech"
OFFLINE = {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}  # a peer's models are local folders


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a system made of one audio file.

    Attributes:
        text_de: the transcript.
        text_en: the translation; None for the task transcribe.
        audio_s: length of the audio in seconds; None where the system does not say.
        stages_s: seconds by stage, of STAGES.
        span: the system's own clock of the work; None lets the caller's clock count.
    """

    text_de: str
    text_en: str | None = None
    audio_s: float | None = None
    stages_s: Mapping[str, float] = field(default_factory=dict)
    span: Clock | None = None


class System(Protocol):
    """A loaded system; run() raises for a file that it cannot do."""

    signature: str
    load_time_s: float
    pid: int

    @property
    def peak_rss_mb(self) -> float | None:
        """Most memory of its process so far, in MiB; None where it does not say."""
        ...

    def run(self, path: Path, task: str) -> Outcome:
        """Transcribe, or transcribe and translate, one file."""
        ...

    def close(self) -> None:
        """Free what the system holds."""
        ...


class EngineSystem:
    """The engine in this process."""

    pid = os.getpid()

    @property
    def peak_rss_mb(self) -> float:
        """Of this process: with a second model in it, of both."""
        return peak_rss_mb()

    def __init__(
        self,
        model: str | None,
        task: str | None,
        *,
        device: Device = "auto",
        threads: int = 0,
        beam_size: int | None = None,
        translation_beam_size: int | None = None,
        passes: Passes | None = None,
    ) -> None:
        """Load a model and all that the task needs of it.

        Args:
            model: as for engine.load.
            task: of TASKS; None takes translate where the model can, else transcribe.
            device, threads: as for engine.load.
            beam_size: CTC beams (1 is greedy, without the language model); None as tuned.
            translation_beam_size: beams of the translator; None takes beam_size, or as tuned.
            passes: 1 or 2; None takes what the model has.
        Raises:
            EngineError: whatever engine.load raises.
        """
        import engine
        from engine.types import DecodingOptions

        start = time.perf_counter()
        self.translator = engine.load(model, device=device, threads=threads)
        self.can_translate = bool(self.translator.bundle.has("mt_encoder"))
        self.task = task or ("translate" if self.can_translate else "transcribe")
        if self.task == "translate":
            self.translator.translator  # noqa: B018  - it loads at first use; loading is not latency
        self.options = DecodingOptions(
            beam_width=beam_size, translation_beam_size=translation_beam_size or beam_size, passes=passes
        )
        if self.translator.choose_passes(self.options) == 2:
            self.translator.second_pass  # noqa: B018  - likewise
        self.load_time_s = time.perf_counter() - start
        self.signature = self._sign()

    def _sign(self) -> str:
        """The model's own signature, with the beams that were asked for in place of the tuned ones."""
        signature = str(self.translator.signature)
        if self.options.beam_width:
            signature = re.sub(r"\bbeam:\d+", f"beam:{self.options.beam_width}", signature)
        if self.options.translation_beam_size:
            signature = re.sub(r",beam\d+", f",beam{self.options.translation_beam_size}", signature)
        if self.options.passes == 1:
            signature = signature.replace("passes:two", "passes:one")
        return signature

    def run(self, path: Path, task: str) -> Outcome:
        """One file through the public API, as a user's program would."""
        if task == "translate":
            translation = self.translator.translate(str(path), options=self.options)
            source = translation.source
            return Outcome(source.text, translation.text, source.duration_s, translation.stages_s)
        transcript = self.translator.transcribe(str(path), options=self.options)
        return Outcome(transcript.text, None, transcript.duration_s, transcript.stages_s)

    def close(self) -> None:
        """Nothing to free: the engine is garbage collected."""


class PeerSystem:
    """Another system in a process of its own, spoken to in JSON lines (benchmarks/peers/README.md)."""

    def __init__(
        self, name: str, *, python: str = sys.executable, arguments: Sequence[str] = (), threads: int = 0
    ) -> None:
        """Start a peer and wait until its model is loaded.

        Args:
            name: a file of benchmarks/peers without its suffix, or the path of a script.
            python: the interpreter of the environment that the peer needs.
            arguments: passed on to the script.
            threads: cores that the peer may use; 0 leaves it its own default.
        Raises:
            PeerError: no such peer, or it ends before it is ready.
        """
        script = Path(name) if name.endswith(".py") else PEERS / f"{name}.py"
        if not script.is_file():
            known = sorted(p.stem for p in PEERS.glob("*.py") if not p.stem.startswith("_"))
            raise PeerError(
                f"no peer {name!r} ({script})", f"one of {', '.join(known)}", "see benchmarks/peers/README.md"
            )
        command = [python, str(script), *arguments, "--threads", str(threads)]
        self.name = script.stem
        start = time.perf_counter()
        try:
            self._worker = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8",
                env={**os.environ, **OFFLINE},
            )  # fmt: skip
        except OSError as error:
            raise PeerError(f"{python} cannot be run ({error})", fix="name another --peer_python") from error
        self.pid = self._worker.pid
        self.peak_rss_mb: float | None = None
        ready = self._read()
        if "error" in ready:
            self.close()
            raise PeerError(
                f"{self.name} did not load: {ready['error']}", fix="mend --peer_args or --peer_python"
            )
        self.tasks = tuple(ready.get("tasks", TASKS))
        self.signature = str(ready.get("signature", self.name))
        self.load_time_s = float(ready.get("load_time_s", time.perf_counter() - start))

    def run(self, path: Path, task: str) -> Outcome:
        """One file; the peer's own clock counts, so that the pipe between us does not."""
        self._write({"path": str(path), "task": task})
        answer = self._read()
        if "error" in answer:
            raise PeerError(f"{self.name}: {answer['error']}")
        span = None
        if "wall_s" in answer:
            span = Clock(float(answer["wall_s"]), float(answer.get("cpu_s", answer["wall_s"])))
        self.peak_rss_mb = answer.get("peak_rss_mb", self.peak_rss_mb)
        return Outcome(
            str(answer.get("text_de", "")),
            answer.get("text_en"),
            answer.get("audio_s"),
            answer.get("stages_s", {}),
            span,
        )

    def close(self) -> None:
        """End the peer."""
        pipe = self._pipe(self._worker.stdin)
        pipe.close()
        try:
            self._worker.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._worker.kill()
            self._worker.wait()
        self._pipe(self._worker.stdout).close()

    def _write(self, message: Mapping[str, Any]) -> None:
        try:
            pipe = self._pipe(self._worker.stdin)
            pipe.write(json.dumps(message) + "\n")
            pipe.flush()
        except OSError as error:
            raise PeerError(f"{self.name} ended ({error})", fix="run its script by hand") from error

    def _read(self) -> dict[str, Any]:
        line = self._pipe(self._worker.stdout).readline()
        if not line:
            code = self._worker.wait()
            raise PeerError(f"{self.name} ended with exit code {code}", fix="run its script by hand")
        try:
            answer = json.loads(line)
        except ValueError as error:
            raise PeerError(f"{self.name} wrote {line[:80]!r}", "a JSON object a line") from error
        if not isinstance(answer, dict):
            raise PeerError(f"{self.name} wrote {line[:80]!r}", "a JSON object a line")
        return answer

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        if pipe is None:
            raise PeerError("the peer has no pipes")
        return pipe

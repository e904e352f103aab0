"""Whatever can be measured: the engine, or a peer, behind one small interface."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.errors import PeerError, WrongOutputError
from benchmarks.measures.memory import peak_rss_mb
from benchmarks.measures.reference import Clock
from benchmarks.protocol.client import PeerProcess
from engine.options import Device, Passes

STAGES = ("audio", "features", "encoder", "decode", "second_pass", "punctuate", "translate")
TASKS = ("transcribe", "translate")
PEERS = Path(__file__).parents[1] / "peers" / "speech"
TIMEOUT_S = 3600.0  # for one recording, however long and however slow the peer


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
    """A speech peer in a process of its own, behind the protocol of benchmarks/peers/README.md."""

    def __init__(
        self, name: str, *, python: str = sys.executable, arguments: Sequence[str] = (), threads: int = 0
    ) -> None:
        """Start a peer and load its model.

        Args:
            name: a file of benchmarks/peers/speech without its suffix, or the path of a script.
            python: the interpreter of the environment that the peer needs.
            arguments: passed on to the script.
            threads: cores that the peer may use; 0 leaves it its own default.
        Raises:
            PeerError: no such peer, it is not a speech peer, or it cannot be started or loaded.
        """
        script = Path(name) if name.endswith(".py") else PEERS / f"{name}.py"
        if not script.is_file():
            known = sorted(p.stem for p in PEERS.glob("*.py") if not p.stem.startswith("_"))
            raise PeerError(
                f"no peer {name!r} ({script})", f"one of {', '.join(known)}", "see benchmarks/peers/README.md"
            )
        self._process = PeerProcess(
            script, python=python, arguments=arguments, threads=threads, timeout_s=TIMEOUT_S
        )
        if self._process.kind != "speech":
            self._process.close()
            raise PeerError(f"{name} is a peer of kind {self._process.kind!r}", "a peer of kind 'speech'")
        self._process.load()
        self.name, self.pid, self.tasks = script.stem, self._process.pid, self._process.capabilities
        self.signature, self.load_time_s = self._process.signature, self._process.load_time_s
        self.peak_rss_mb: float | None = None

    def run(self, path: Path, task: str) -> Outcome:
        """One file; the peer's own clock counts, so that the pipe between us does not.

        Raises:
            PeerError: the peer answered with an error, or with something else than texts.
        """
        answer = self._process.run(task, {"path": str(path)})
        self.peak_rss_mb = answer.peak_rss_mb or self.peak_rss_mb
        outputs = answer.outputs
        wanted = ("text_de", "text_en") if task == "translate" else ("text_de",)
        if missing := [key for key in wanted if not isinstance(outputs.get(key), str)]:
            raise WrongOutputError(f"{self.name} gave no {', '.join(missing)}", f"text for the task {task}")
        return Outcome(
            outputs["text_de"],
            outputs.get("text_en"),
            outputs.get("audio_s"),
            outputs.get("stages_s", {}),
            Clock(answer.wall_s, answer.cpu_s),
        )

    def close(self) -> None:
        """End the peer."""
        self._process.close()

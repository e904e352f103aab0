"""A class for Ray Data: the model is loaded once a worker, and each row gets a result or an error.

    ds = ray.data.read_json("in.jsonl")  # columns audio_filepath, offset, duration ...
    ds = ds.map_batches(Transcriber, compute=ray.data.ActorPoolStrategy(size=8), num_cpus=4, batch_size=16)

Ray itself is not imported here: the class works on any batch, a dict of columns.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.audio.limits import Waveform
from engine.audio.parts import PartLoader, cut_part
from engine.errors import AudioDecodeError, AudioShapeError, AudioValueError, EngineError, OptionError
from engine.jobs.archive import Result, Task, check_whole, load_recording, model_name, recognise_all, words_of
from engine.jobs.longform import run_ordered
from engine.manifests.recordings import Recording
from engine.manifests.rows import DURATION, ID, OFFSET, first_of, name_part
from engine.output.formats import DECIMALS
from engine.types import Backend, ComputeType, DecodingOptions, Device, Translation

PATHS: Final = ("path", "audio_filepath", "file_name")
SAMPLES: Final = ("audio", "amplitude")  # the second is what ray.data.read_audio calls it
BYTES, RATE = "bytes", "sample_rate"
ADDED: Final = ("text", "translation", "words", "duration", "model", "warnings", "error")
Batch = Mapping[str, Any]


class Transcriber:
    """Recognises batches of recordings; for `Dataset.map_batches` with batch_format "numpy", its default."""

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        task: Task = "transcribe",
        options: DecodingOptions | None = None,
        threads: int | None = None,
        device: Device = "auto",
        compute_type: ComputeType = "auto",
        backend: Backend = "auto",
    ) -> None:
        """Load the model; Ray does this once in each worker.

        Args:
            model, device, compute_type, backend: as for engine.load.
            task: "transcribe", or "translate" for a column `translation` as well.
            options: decoding settings; the model's own where None.
            threads: None takes the CPUs that Ray gave the worker (num_cpus), without Ray all that there are.
        Raises:
            OptionError: an unknown task. Whatever engine.load raises.
        """
        from engine.pipeline import load

        if task not in ("transcribe", "translate"):
            raise OptionError(f"task {task!r}", "transcribe or translate", "name one of these")
        threads = assigned_cpus() if threads is None else threads
        self._translator = load(
            model, device=device, compute_type=compute_type, threads=threads, backend=backend
        )
        self._task, self._options = task, options
        self._model = model_name(self._translator)

    def __call__(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """Recognise the recordings of a batch.

        Args:
            batch: columns of equal length. Audio is in `path` or `audio_filepath`, in `bytes` (of an audio
                file), or in `audio` with `sample_rate` (Hz): arrays [n_samples] or with channels. `offset`
                and `duration`, in seconds, mean a part of it. `id` says which row is which; without it the
                path and the part do.
        Returns:
            `id`; every other column but audio and bytes; and `text`, `translation` when asked, `words` (JSON,
            times in seconds in the file), `duration` (seconds; NaN for a failed row), `model`, `warnings`,
            and `error`: empty, or why there is no text. A column of the batch that has one of these names
            gets the suffix `_given`. Rows stay in order.
        Raises:
            OptionError: the columns do not say where the audio is, or which row is which.
        """
        loader = PartLoader(self._translator.limits)
        rows = _Rows(batch, self._translator.load_audio, loader, self._options)
        sources = run_ordered(rows.load, range(len(rows)), threads=min(self._translator.threads, 4))
        results = list(recognise_all(self._translator, sources, self._task, self._options))
        return rows.kept() | self._columns(rows, results)

    def _columns(self, rows: _Rows, results: Sequence[Result | EngineError]) -> dict[str, NDArray[Any]]:
        columns: dict[str, list[Any]] = {name: [] for name in ADDED}
        for i, result in enumerate(results):
            values = _failed(result) if isinstance(result, EngineError) else _done(result, rows.offset_s(i))
            for name, value in (values | {"model": self._model}).items():
                columns[name].append(value)
        if self._task == "transcribe":
            del columns["translation"]
        types = {name: np.float64 if name == "duration" else object for name in columns}
        return {name: np.array(values, types[name]) for name, values in columns.items()}


def assigned_cpus() -> int:
    """The CPUs that Ray gave this worker, at least 1; 0 outside of Ray's workers."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return 0
    context = ray.get_runtime_context()
    if context.worker.mode != ray._private.worker.WORKER_MODE:
        return 0
    return max(1, int(context.get_assigned_resources().get("CPU", 0)))


class _Rows:
    """The rows of a batch: what each is called, and its audio."""

    def __init__(
        self, batch: Batch, load_audio: Callable[..., Waveform], loader: PartLoader,
        options: DecodingOptions | None = None,
    ) -> None:  # fmt: skip
        self._batch, self._load_audio, self._loader, self._options = batch, load_audio, loader, options
        self._path, self._samples = first_of(PATHS, batch) or "", first_of(SAMPLES, batch) or ""
        self._check()
        self.ids = batch[ID] if ID in batch else self._named()

    def __len__(self) -> int:
        return len(self.ids)

    def _check(self) -> None:
        names = ", ".join(self._batch) or "nothing"
        if not (BYTES in self._batch or self._path or self._samples):
            raise OptionError(f"columns {names}", "path, bytes, or audio and sample_rate", "rename a column")
        if self._samples and BYTES not in self._batch and RATE not in self._batch:
            raise OptionError(
                f"column {self._samples!r} without {RATE!r}", "its rate in Hz for each row", f"add {RATE!r}"
            )
        if ID not in self._batch and not self._path:
            raise OptionError(f"columns {names}", "an id for each row", "add a column 'id'")

    def _named(self) -> NDArray[Any]:
        return np.array([self._name(i) for i in range(len(self._batch[self._path]))], object)

    def _name(self, i: int) -> str:
        path = str(self._batch[self._path][i])
        try:
            return name_part(path, self.offset_s(i), self._seconds(DURATION, i))
        except AudioValueError:  # it is reported when the row is loaded
            return path

    def offset_s(self, i: int) -> float:
        """Where a row begins in its file.

        Raises:
            AudioValueError: it is no number.
        """
        return self._seconds(OFFSET, i) or 0.0

    def kept(self) -> dict[str, NDArray[Any]]:
        """The ids, and the columns that are handed on."""
        columns = {ID: np.asarray(self.ids)}
        for name, values in self._batch.items():
            if name not in (ID, BYTES, self._samples):
                columns[f"{name}_given" if name in ADDED else name] = values
        return columns

    def load(self, i: int) -> Any:
        """The source of a row.

        Raises:
            AudioError and its kinds: the row holds none, or it cannot be read.
        """
        offset_s, duration_s = self.offset_s(i), self._seconds(DURATION, i)
        if BYTES in self._batch or self._samples:
            source, rate = self._in_memory(i)
            if not offset_s and duration_s is None and rate is None:
                return source
            check_whole(self._options)
            waveform = self._load_audio(source, rate)
            whole = not offset_s and duration_s is None
            return waveform if whole else cut_part(waveform, offset_s, duration_s, name=f"row {self.ids[i]}")
        path = self._batch[self._path][i]
        if not isinstance(path, str) or not path:
            raise AudioDecodeError(f"path {path!r}", "the path of an audio file", "drop the row")
        return load_recording(Recording("", path, offset_s, duration_s), Path(), self._loader, self._options)

    def _in_memory(self, i: int) -> tuple[Any, Any]:
        """Bytes of a file, or samples and their rate."""
        if BYTES in self._batch:
            content = self._batch[BYTES][i]
            if not isinstance(content, bytes | bytearray | memoryview):
                kind = type(content).__name__
                raise AudioDecodeError(f"bytes of type {kind}", "the bytes of an audio file", "drop the row")
            return content, None
        samples, rate = self._batch[self._samples][i], self._batch[RATE][i]
        if samples is None or rate is None:
            raise AudioShapeError("a row without samples or sample_rate", "both", "drop the row")
        return np.asarray(samples), rate

    def _seconds(self, column: str, i: int) -> float | None:
        value = self._batch[column][i] if column in self._batch else None
        try:
            seconds = math.nan if value is None else float(value)
        except (TypeError, ValueError) as error:
            raise AudioValueError(f"{column} {value!r}", "seconds", "correct or drop the row") from error
        return None if math.isnan(seconds) else seconds


def _done(result: Result, offset_s: float) -> dict[str, Any]:
    transcript = result.source if isinstance(result, Translation) else result
    return {
        "text": transcript.text,
        "translation": result.text if isinstance(result, Translation) else "",
        "words": msgspec.json.encode(words_of(transcript, offset_s)).decode(),
        "duration": round(transcript.duration_s, DECIMALS),
        "warnings": "; ".join(getattr(result, "warnings", ())),
        "error": "",
    }


def _failed(error: EngineError) -> dict[str, Any]:
    said = f"{type(error).__name__}: {error}"
    return {"text": "", "translation": "", "words": "[]", "duration": math.nan, "warnings": "", "error": said}

"""A shard of an archive: every recording that has no line yet, one line each, failures by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from engine import __version__
from engine.audio.parts import PartLoader
from engine.bundle.signature import bundle_digest
from engine.errors import AudioDecodeError, EngineError, OptionError, OutputError
from engine.jobs.groups import run_around_errors
from engine.jobs.longform import run_ordered
from engine.jobs.shard_files import ShardFiles
from engine.jobs.shard_records import Failure, Header, Status, check_others
from engine.jobs.shards import Plan, Shard
from engine.manifests.recordings import Recording
from engine.output.formats import DECIMALS, channel_dict, word_dict
from engine.runtime.cancel import CancelToken
from engine.runtime.interrupts import signals_held
from engine.types import DecodingOptions, Transcript, Translation

if TYPE_CHECKING:
    from engine.pipeline import SpeechTranslator

Task = Literal["transcribe", "translate"]
Result = Transcript | Translation
Report = Callable[[Recording, EngineError | None], None]
LOADED_AT_ONCE: Final = 4  # parts of files that are read side by side


class Order(NamedTuple):
    """What is to be done with a shard.

    Attributes:
        plan: from plan_shard. shard: which one.
        manifest: in whose folder relative paths begin. folder: for the shard's files.
    """

    plan: Plan
    shard: Shard
    manifest: Path
    folder: Path
    task: Task = "transcribe"
    options: DecodingOptions = DecodingOptions()


def run_shard(
    translator: SpeechTranslator,
    order: Order,
    report: Report = lambda recording, error: None,
    cancel: CancelToken | None = None,
) -> Status:
    """Recognise a shard's recordings, and those of an earlier run that failed or were not reached.

    Args:
        report: called for each recording that is done, also for those of earlier runs, or with its error.
        cancel: ends the run; what is done stays.
    Returns:
        Counts; the result and the failures are written.
    Raises:
        OptionError: the folder holds results of another manifest, model or options, or another process
            works on this shard. OutputError: a file cannot be written. CancelledError.
    """
    recordings, folder = order.plan.recordings, order.folder
    if order.task == "translate":
        translator.translator  # noqa: B018  - fail before any file is made
    header = make_header(translator, order)
    _make(folder)
    check_others(folder, header)
    failures = []
    with ShardFiles(folder, order.shard, header) as files:
        waiting = [recording for recording in recordings if recording.id not in files]
        for recording in recordings:
            if recording.id in files:
                report(recording, None)
        results = _recognise(translator, waiting, order, cancel)
        for recording, result in zip(waiting, results, strict=True):
            if isinstance(result, EngineError):
                failures.append(_failure(recording, result))
                report(recording, result)
            else:
                line = encode_line(recording, result, header.model)
                with signals_held():
                    files.add(recording.id, line)
                    report(recording, None)
        return files.finish([recording.id for recording in recordings], failures)


def make_header(translator: SpeechTranslator, order: Order) -> Header:
    """What a shard's results depend on; nothing of it depends on threads or on how the work is grouped."""
    encoder = translator.acoustic.encoder
    arithmetic = f"{encoder.compute_type},{encoder.backend}"
    said = {"task": order.task, **asdict(order.options), "arithmetic": arithmetic}
    return Header(
        shard=order.shard.number,
        shards=order.shard.count,
        rows=len(order.plan.recordings),
        total_rows=order.plan.n_total,
        plan=order.plan.digest,
        model=model_name(translator),
        engine=__version__,
        options=msgspec.json.decode(msgspec.json.encode(said)),  # as it comes back from a file
    )


def model_name(translator: SpeechTranslator) -> str:
    """Name and digest of the model, the same on every machine: "de-en-base@1a2b3c4d"."""
    return f"{translator.bundle.name}@{bundle_digest(translator.bundle)}"


def encode_line(recording: Recording, result: Result, model: str) -> bytes:
    """The line of a recording: JSON without a line end; word times count from the start of the file."""
    transcript = result.source if isinstance(result, Translation) else result
    duration_s = transcript.duration_s if recording.duration_s is None else recording.duration_s
    line: dict[str, Any] = {
        "id": recording.id,
        "audio_filepath": recording.path,
        "offset": recording.offset_s,
        "duration": round(duration_s, DECIMALS),
        "text": transcript.text,
    }
    if isinstance(result, Translation):
        line["translation"] = result.text
    line["words"] = words_of(transcript, recording.offset_s)
    line["model"] = model
    line["warnings"] = list(getattr(result, "warnings", ()))
    return msgspec.json.encode(line)


def words_of(transcript: Transcript, offset_s: float = 0.0) -> list[dict[str, Any]]:
    """The words as json has them, offset_s seconds later; with channel and speaker where these are known."""
    words = [
        word_dict(word) | channel_dict(segment) for segment in transcript.segments for word in segment.words
    ]
    for word in words:
        for edge in ("start", "end"):
            word[edge] = round(word[edge] + offset_s, DECIMALS)
    return words


def recognise_all(
    translator: SpeechTranslator,
    sources: Iterable[Any],
    task: Task,
    options: DecodingOptions | None,
    cancel: CancelToken | None = None,
) -> Iterator[Result | EngineError]:
    """Transcribe or translate sources, some of which may be errors already."""
    batch: Any = translator.transcribe_batch if task == "transcribe" else translator.translate_batch
    return run_around_errors(sources, lambda others: batch(others, options=options, cancel=cancel))


def check_whole(options: DecodingOptions | None) -> None:
    """Refuse a part of a file where channels or tracks were chosen: a part is loaded with its channels mixed.

    Raises:
        OptionError: channels "separate", or an audio track.
    """
    if options is not None and (options.channels == "separate" or options.audio_track is not None):
        raise OptionError(
            "a part of a file, or samples, with channels separate or an audio track", "a whole file",
            "cut the file before, or leave the option out",
        )  # fmt: skip


def load_recording(
    recording: Recording, folder: Path, loader: PartLoader, options: DecodingOptions | None = None
) -> Any:
    """What is recognised of a recording: the path of a whole file, or the waveform of a part.

    Raises:
        AudioError: as load_part. OptionError: as check_whole.
    """
    path = folder / recording.path
    if not recording.offset_s and recording.duration_s is None:
        return path
    check_whole(options)
    try:
        return loader.load(path, recording.offset_s, recording.duration_s)
    except OSError as error:
        if isinstance(error, EngineError):
            raise
        raise AudioDecodeError(
            f"{str(path)!r} cannot be read ({error.strerror or error})", "a file that can be read to its end"
        ) from error


def _recognise(
    translator: SpeechTranslator, recordings: Sequence[Recording], order: Order, cancel: CancelToken | None
) -> Iterator[Result | EngineError]:
    folder, loader = order.manifest.parent, PartLoader(translator.limits)
    sources = run_ordered(
        lambda recording: load_recording(recording, folder, loader, order.options),
        recordings, threads=min(translator.threads, LOADED_AT_ONCE), cancel=cancel,
    )  # fmt: skip
    return recognise_all(translator, sources, order.task, order.options, cancel)


def _failure(recording: Recording, error: EngineError) -> Failure:
    return Failure(
        id=recording.id, audio_filepath=recording.path, error=type(error).__name__, message=str(error)
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make {str(folder)!r} ({error.strerror})", "a writable folder", "choose another one"
        ) from error

"""`engine transcribe` and `engine translate`: files in, text on the terminal or files out."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli.inputs import find_inputs, name_outputs
from engine.cli.many import Work, ended_by_signals
from engine.cli.settings import decoding_options, load_model
from engine.cli.terminal import complain, progress_bar, say
from engine.errors import CancelledError, EngineError, OptionError, OutputError
from engine.jobs.groups import run_around_errors
from engine.output.formats import FORMATS, render, write
from engine.runtime.cancel import CancelToken
from engine.types import DecodingOptions, Transcript, Translation

if TYPE_CHECKING:
    from engine.pipeline import SpeechTranslator

Result = Transcript | Translation


def run_files(options: argparse.Namespace) -> int:
    """Work through the inputs in order; a bad one costs one line and exit code 1, never the others."""
    if options.manifest is not None:
        from engine.cli.archive import run_manifest

        return run_manifest(options)
    if options.task == "translate" and options.text_file:
        from engine.cli.text import run_text

        return run_text(options)
    if not options.files:
        raise OptionError("no input", "audio files, or --text_file", "name at least one file")
    if options.task == "translate" and options.output:
        raise OptionError("--output without --text_file", "--output_dir for audio", "add --output_dir DIR")
    if options.shard is not None:
        raise OptionError("--shard without --manifest", "a manifest", "add --manifest IN.jsonl")
    found = find_inputs(options.files)
    places = [each.place for each in found.inputs]
    outputs = plan_outputs(places, options.output_dir, options.output_format)
    work = Work(found, outputs, skip_existing=options.skip_existing)
    return _run(work, options) if work.todo else work.finish()


def _run(work: Work, options: argparse.Namespace) -> int:
    sources = work.sources()
    translator = load_model(options)
    with ended_by_signals() as cancel:
        results = _results(translator, sources, options, cancel)
        try:
            for (one, paths), result in zip(work.todo, results, strict=True):
                try:
                    if isinstance(result, EngineError):
                        raise result
                    _deliver(one.label, result, paths, options)
                    work.succeed()
                except EngineError as error:
                    work.fail(one, error)
        except (KeyboardInterrupt, CancelledError) as stopped:
            work.interrupted()
            raise KeyboardInterrupt from stopped
    return work.finish()


def plan_outputs(
    places: Sequence[str], output_dir: str | None, output_format: str | None
) -> list[tuple[Path, ...]]:
    """Name every output file before any work is done.

    Args:
        places: of the inputs, below the folder that they come from.
        output_dir: None prints instead. output_format: "all", or one format.
    Returns:
        The output paths of each: its place below output_dir with the format's suffix, or behind its whole
        name where two inputs differ in nothing but their suffix.
    Raises:
        OptionError: two inputs in the same place. OutputError: the folder cannot be made.
    """
    if output_dir is None:
        if output_format == "all":
            raise OptionError("--output_format all without --output_dir", "a folder", "add --output_dir DIR")
        return [()] * len(places)
    folder = Path(output_dir)
    _make(folder)
    formats = FORMATS if output_format in (None, "all") else (output_format,)
    return [tuple(folder / f"{name}.{suffix}" for suffix in formats) for name in name_outputs(places)]


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {str(folder)!r} ({error.strerror})", "a writable folder") from error


def _results(
    translator: SpeechTranslator, sources: Sequence[Any], options: argparse.Namespace, cancel: CancelToken
) -> Iterator[Result | EngineError]:
    settings = decoding_options(options)
    if len(sources) == 1:
        yield _one_with_progress(translator, sources[0], settings, options.task, cancel)
        return
    batch = translator.transcribe_batch if options.task == "transcribe" else translator.translate_batch
    with progress_bar(len(sources), "file") as bar:
        results: Iterator[Result | EngineError] = run_around_errors(
            sources, lambda others: batch(others, options=settings, cancel=cancel)
        )
        for result in results:
            bar.update()
            yield result


def _one_with_progress(
    translator: SpeechTranslator, source: Any, settings: DecodingOptions, task: str, cancel: CancelToken
) -> Result | EngineError:
    if isinstance(source, EngineError):
        return source
    call = translator.transcribe if task == "transcribe" else translator.translate
    with progress_bar(None, "s", delay_s=2) as bar:

        def advance(done_s: float, total_s: float) -> None:
            bar.total = round(total_s, 1)
            bar.update(round(done_s, 1) - bar.n)

        try:
            return call(source, options=settings, progress=advance, cancel=cancel)
        except CancelledError:
            raise
        except EngineError as error:
            return error


def _deliver(source: str, result: Result, paths: Sequence[Path], options: argparse.Namespace) -> None:
    for path in paths:
        _make(path.parent)
        write(result, path, word_timestamps=options.word_timestamps)
    printed = not paths and (options.output_format is not None or not options.verbose)
    if options.verbose:
        (complain if printed else say)(describe(source, result))
    if printed:
        text = render(result, options.output_format or "txt", word_timestamps=options.word_timestamps)
        say(text.rstrip("\n"))


def describe(source: str, result: Result) -> str:
    """A few lines for a person: what was said, its translation, and where the time went."""
    transcript = result.source if isinstance(result, Translation) else result
    lines = [f"{source} ({result.duration_s:.1f} s)", f"  de  {transcript.text or '(no speech)'}"]
    if isinstance(result, Translation):
        lines.append(f"  en  {result.text}")
    stages = " | ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in result.stages_s.items())
    total_s = sum(result.stages_s.values())
    rtfx = f" | {result.duration_s / total_s:.0f}x real time" if total_s else ""
    return "\n".join([*lines, f"      {stages}{rtfx}"])

"""`engine transcribe` and `engine translate`: files in, text on the terminal or files out."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.settings import decoding_options, load_model
from engine.cli.terminal import complain, progress_bar, say
from engine.errors import EngineError, OptionError, OutputError
from engine.output.formats import FORMATS, render, write
from engine.types import DecodingOptions, Transcript, Translation

if TYPE_CHECKING:
    from engine.pipeline import SpeechTranslator

Result = Transcript | Translation


def run_files(options: argparse.Namespace) -> int:
    """Work through the files in order; a bad one costs one line and exit code 1, never the others."""
    if options.task == "translate" and options.text_file:
        from engine.cli.text import run_text

        return run_text(options)
    if not options.files:
        raise OptionError("no input", "audio files, or --text_file", "name at least one file")
    if options.task == "translate" and options.output:
        raise OptionError("--output without --text_file", "--output_dir for audio", "add --output_dir DIR")
    outputs = plan_outputs(options.files, options.output_dir, options.output_format)
    translator = load_model(options)
    failures = 0
    for source, result in zip(options.files, _results(translator, options), strict=True):
        try:
            if isinstance(result, EngineError):
                raise result
            _deliver(source, result, outputs.get(source, ()), options)
        except EngineError as error:
            failures += 1
            complain(f"engine: error: {source}: {error}")
    return 1 if failures else 0


def plan_outputs(
    files: Sequence[str], output_dir: str | None, output_format: str | None
) -> dict[str, tuple[Path, ...]]:
    """Name every output file before any work is done.

    Args:
        files: inputs. output_dir: None prints instead. output_format: "all", or one format.
    Returns:
        Input to its output paths: the input's stem with the format's suffix, or its whole name
        where two inputs share a stem.
    Raises:
        OptionError: the same input twice. OutputError: the folder cannot be made.
    """
    if output_dir is None:
        if output_format == "all":
            raise OptionError("--output_format all without --output_dir", "a folder", "add --output_dir DIR")
        return {}
    folder = Path(output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {str(folder)!r} ({error.strerror})", "a writable folder") from error
    stems = [Path(file).stem for file in files]
    names = [
        stem if stems.count(stem) == 1 else Path(file).name for file, stem in zip(files, stems, strict=True)
    ]
    if len(set(names)) < len(names):
        raise OptionError("two inputs share a file name", "distinct names", "use one --output_dir for each")
    formats = FORMATS if output_format in (None, "all") else (output_format,)
    return {
        file: tuple(folder / f"{name}.{suffix}" for suffix in formats)
        for file, name in zip(files, names, strict=True)
    }


def _results(translator: SpeechTranslator, options: argparse.Namespace) -> Iterator[Result | EngineError]:
    settings = decoding_options(options)
    if len(options.files) == 1:
        yield _one_with_progress(translator, options.files[0], settings, options.task)
        return
    batch = translator.transcribe_batch if options.task == "transcribe" else translator.translate_batch
    with progress_bar(len(options.files), "file") as bar:
        for result in batch(options.files, options=settings):
            bar.update()
            yield result


def _one_with_progress(
    translator: SpeechTranslator, source: str, settings: DecodingOptions, task: str
) -> Result | EngineError:
    call = translator.transcribe if task == "transcribe" else translator.translate
    with progress_bar(None, "s", delay_s=2) as bar:

        def advance(done_s: float, total_s: float) -> None:
            bar.total = round(total_s, 1)
            bar.update(round(done_s, 1) - bar.n)

        try:
            return call(source, options=settings, progress=advance)
        except EngineError as error:
            return error


def _deliver(source: str, result: Result, paths: Sequence[Path], options: argparse.Namespace) -> None:
    for path in paths:
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
    lines = [f"{source} ({result.duration_s:.1f} s)", *_spoken("de", transcript)]
    if isinstance(result, Translation):
        lines += _spoken("en", result)
    stages = " | ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in result.stages_s.items())
    total_s = sum(result.stages_s.values())
    rtfx = f" | {result.duration_s / total_s:.0f}x real time" if total_s else ""
    return "\n".join([*lines, f"      {stages}{rtfx}"])


def _spoken(language: str, result: Result) -> list[str]:
    """What was said: one line, or one for each segment where speakers are known."""
    if any(segment.channel for segment in result.segments):
        return [f"  {language}  {segment.speaker}: {segment.text}" for segment in result.segments]
    return [f"  {language}  {result.text or '(no speech)'}"]

"""`engine transcribe` and `engine translate`: files in, text on the terminal or files out."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine.cli.outputs import Delivery, plan_outputs
from engine.cli.settings import decoding_options, load_model
from engine.cli.terminal import complain, progress_bar
from engine.errors import EngineError, OptionError
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
    plan = plan_outputs(options.files, options.output_dir, options.output_format)
    translator = load_model(options)
    delivery = Delivery(options, plan)
    failures = 0
    for source, result in zip(options.files, _results(translator, options), strict=True):
        try:
            if isinstance(result, EngineError):
                raise result
            delivery.add(source, result)
        except EngineError as error:
            failures += 1
            complain(f"engine: error: {source}: {error}")
    delivery.close()
    return 1 if failures else 0


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

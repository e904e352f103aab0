"""`engine transcribe` and `engine translate`: files in, text on the terminal or files out."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from engine.cli.inputs import find_inputs
from engine.cli.many import Work
from engine.cli.outputs import Delivery, Plan, plan_outputs
from engine.cli.settings import decoding_options, load_model
from engine.cli.terminal import progress_bar
from engine.errors import CancelledError, EngineError, OptionError
from engine.jobs.groups import run_around_errors
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
    options.files = [each.path for each in found.inputs]
    places = [each.place for each in found.inputs]
    plan = plan_outputs(options.files, options.output_dir, options.output_format, places)
    work = Work(found, plan, skip_existing=options.skip_existing)
    return _run(work, options, plan) if work.todo else work.finish()


def _run(work: Work, options: argparse.Namespace, plan: Plan) -> int:
    sources = work.sources()
    translator = load_model(options)
    delivery = Delivery(options, plan)
    with work.stopping() as cancel:
        results = _results(translator, sources, options, cancel)
        for one, result in zip(work.todo, results, strict=True):
            try:
                if isinstance(result, EngineError):
                    raise result
                with work.step():
                    delivery.write(one.path, result)
                    work.succeed()
                delivery.tell(one.path, result)
            except EngineError as error:
                work.fail(one, error)
    delivery.close()
    return work.finish()


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

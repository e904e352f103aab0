"""Where the results of `engine transcribe` and `engine translate` go: planned first, delivered one by one."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.cli.inputs import name_outputs
from engine.cli.terminal import complain, say
from engine.errors import OptionError, OutputError
from engine.output.formats import FORMATS, render, to_dict, write_text
from engine.output.targets import Inputs, check_folder, check_target, find_clash
from engine.types import Transcript, Translation

Result = Transcript | Translation
Plan = Mapping[str, tuple[Path, ...]]
ONE_EACH = ("srt", "vtt", "tsv")  # formats of which two in a row are no file any more


def plan_outputs(
    files: Sequence[str],
    output_dir: str | None,
    output_format: str | None,
    places: Sequence[str] | None = None,
) -> Plan:
    """Name every output file before any work is done.

    Args:
        files: inputs. output_dir: None prints instead. output_format: "all", or one format.
        places: where each input stands below the folder that was named (a/x.wav); None takes its name.
    Returns:
        Input to its output paths: the input's stem with the format's suffix, or its whole name
        where two inputs share a stem; below output_dir in its place. Empty where results are printed.
    Raises:
        OptionError: an input twice, two that would be one output, or a format that takes one file only.
        OutputError: the folder cannot be made or written, or an output that is an input, a folder or a link.
    """
    if output_dir is None:
        _check_printed(files, output_format)
        return {}
    folder = Path(output_dir)
    _make(folder)
    check_folder(folder)
    names = _name_outputs(folder, files) if places is None else name_outputs(places)
    formats = FORMATS if output_format in (None, "all") else (output_format,)
    plan = {
        file: tuple(folder / f"{name}.{suffix}" for suffix in formats)
        for file, name in zip(files, names, strict=True)
    }
    inputs = Inputs(files)
    for path in (path for paths in plan.values() for path in paths):
        check_target(path, inputs, derived=True)
    return plan


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make {str(folder)!r} ({error.strerror})", "a writable folder", "choose another one"
        ) from error


def _check_printed(files: Sequence[str], output_format: str | None) -> None:
    fix = "add --output_dir DIR"
    if output_format == "all":
        raise OptionError("--output_format all without --output_dir", "a folder", fix)
    if output_format in ONE_EACH and len(files) > 1:
        raise OptionError(
            f"{len(files)} files as {output_format} on standard output", "a file for each of them", fix
        )


def _name_outputs(folder: Path, files: Sequence[str]) -> list[str]:
    """A name for each input: its stem where that is enough, else its whole name."""
    stems = [Path(file).stem for file in files]
    count = Counter(stems)
    names = [stem if count[stem] == 1 else Path(file).name for file, stem in zip(files, stems, strict=True)]
    clash = find_clash(folder, names)
    if clash is not None:
        first, second = (files[index] for index in clash)
        if first == second:
            raise OptionError(f"the input {first!r} is given twice", "each input once", "name it once")
        raise OptionError(
            f"{first!r} and {second!r} share a file name: both would be written to {names[clash[0]]!r}",
            "distinct names in one --output_dir",
            "run once for each folder, with another --output_dir",
        )
    return names


class Delivery:
    """Prints or writes results in the order of the inputs."""

    def __init__(self, options: argparse.Namespace, plan: Plan) -> None:
        self._options, self._plan = options, plan
        self._several = len(options.files) > 1
        self._layout = {
            "word_timestamps": options.word_timestamps,
            "bilingual": getattr(options, "bilingual", False),
        }
        self._started_s, self._audio_s = time.perf_counter(), 0.0
        self._printed = not plan and (options.output_format is not None or not options.verbose)

    def write(self, source: str, result: Result) -> None:
        """Write the files of one result; nothing waits for a reader.

        Raises:
            OutputError: one cannot be written.
        """
        for path in self._plan.get(source, ()):
            _make(path.parent)
            write_text(render(result, path.suffix[1:], **self._layout), path, follow=False)

    def tell(self, source: str, result: Result) -> None:
        """Print one result, or with --verbose what became of it.

        Raises:
            BrokenPipeError: the reader of standard output left.
        """
        self._audio_s += result.duration_s
        if self._options.verbose:
            self._tell(describe(source, result))
            if not self._several:
                self.close()
        if self._printed:
            say(self._print(source, result))

    def close(self) -> None:
        """With --verbose, say how long all of it took, once."""
        if self._options.verbose and self._audio_s:
            took_s = time.perf_counter() - self._started_s
            speed = self._audio_s / took_s
            self._tell(f"{self._audio_s:.1f} s of audio in {took_s:.1f} s, {speed:.1f}x real time")
            self._audio_s = 0.0

    def _tell(self, text: str) -> None:
        (complain if self._printed else say)(text)

    def _print(self, source: str, result: Result) -> str:
        """What standard output gets: of several files a JSON object a line, or texts under their names."""
        output_format = self._options.output_format or "txt"
        if self._several and output_format == "json":
            return json.dumps({"file": source, **to_dict(result)}, ensure_ascii=False)
        text = render(result, output_format, **self._layout).rstrip("\n")
        return f"==> {source} <==\n{text}" if self._several else text


def describe(source: str, result: Result) -> str:
    """A few lines for a person: what was said, its translation, and where the time went."""
    transcript = result.source if isinstance(result, Translation) else result
    lines = [f"{source} ({result.duration_s:.1f} s)", *_spoken("de", transcript)]
    if isinstance(result, Translation):
        lines += _spoken("en", result)
    stages = " | ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in result.stages_s.items())
    return "\n".join([*lines, f"      {stages} (of all threads together)"])


def _spoken(language: str, result: Result) -> list[str]:
    """What was said: one line, or one for each segment where speakers are known."""
    if any(segment.channel for segment in result.segments):
        spoken = (segment for segment in result.segments if segment.text)
        return [f"  {language}  {segment.speaker}: {segment.text}" for segment in spoken]
    return [f"  {language}  {result.text or '(no speech)'}"]

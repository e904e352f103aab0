"""`engine translate --text_file IN --output OUT`: a line for a line, or subtitles for subtitles."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from engine.bundle.folder import open_bundle
from engine.cli.settings import decoding_options
from engine.cli.terminal import complain, progress_bar, say
from engine.errors import OptionError
from engine.manifests import text_file
from engine.manifests.text_file import decode_text, split_lines
from engine.output.formats import write_text
from engine.output.subtitle_file import find_kind, read_subtitles, render_subtitles
from engine.output.targets import Inputs, check_target
from engine.types import Progress, RuntimeOptions, TranslationHypothesis

LINES_AT_ONCE = 256
STANDARD_OUTPUT = (None, "-")


def run_text(options: argparse.Namespace) -> int:
    """Translate a text file line by line, and .srt and .vtt cue by cue; empty lines stay empty."""
    if options.files:
        raise OptionError("--text_file together with audio files", "one of them", "run the command twice")
    if options.output_dir or options.output_format:
        raise OptionError("--text_file with --output_dir or --output_format", "--output OUT", "name a file")
    if options.output not in STANDARD_OUTPUT:
        check_target(options.output, Inputs([options.text_file] if options.text_file != "-" else []))
    if find_kind(options.text_file):
        return _run_subtitles(options)
    lines = read_lines(options.text_file)
    translated = _translated(_Texts(options), lines)
    if options.output in STANDARD_OUTPUT:
        for line in translated:
            say(line)
    else:
        write_text("".join(f"{line}\n" for line in translated), options.output)
    return 0


def read_lines(path: str) -> list[str]:
    """Lines of a text file or of standard input ('-'), without their ends.

    Raises:
        TextFileError: it cannot be read, or is neither UTF-8 nor UTF-16 with a byte order mark; the message
            names the line.
    """
    if path == "-":
        return split_lines(decode_text(sys.stdin.buffer.read(), "standard input"))
    return text_file.read_lines(path)


def _run_subtitles(options: argparse.Namespace) -> int:
    from engine.jobs.subtitles import translate_subtitles

    kind = find_kind(options.text_file)
    assert kind is not None
    file = read_subtitles(text_file.read_text(options.text_file), kind, options.text_file)
    texts = _Texts(options)
    with progress_bar(1, "share", delay_s=2) as bar:
        done = [0.0]

        def tell(now: float, total: float) -> None:
            bar.update(now / max(total, 1) - done[0])
            done[0] = now / max(total, 1)

        english, warnings = translate_subtitles(file, lambda german: texts.translate(german, tell))
    for line, note in warnings:
        complain(f"engine: warning: line {line}: {note}")
    text = render_subtitles(english, find_kind(options.output or ""))
    if options.output in STANDARD_OUTPUT:
        say(text.removesuffix("\n"))
    else:
        write_text(text, options.output)
    return 0


class _Texts:
    """The translator that the options ask for."""

    def __init__(self, options: argparse.Namespace) -> None:
        from engine.translation import Translator

        # Alone, so that a bundle without a recogniser will do.
        runtime = RuntimeOptions(options.device, options.compute_type, options.threads, options.backend)
        self._translator = Translator(open_bundle(options.model), runtime)
        self._settings = decoding_options(options)

    def translate(self, german: list[str], progress: Progress | None = None) -> list[TranslationHypothesis]:
        return self._translator.translate_paragraphs(
            german,
            beam_size=self._settings.translation_beam_size,
            length_penalty=self._settings.length_penalty,
            progress=progress,
        )


def _translated(texts: _Texts, lines: list[str]) -> Iterator[str]:
    with progress_bar(len(lines), "line", delay_s=2) as bar:
        for start in range(0, len(lines), LINES_AT_ONCE):
            block = lines[start : start + LINES_AT_ONCE]
            for number, found in enumerate(texts.translate(block), start + 1):
                for note in found.warnings:
                    complain(f"engine: warning: line {number}: {note}")
                yield " ".join(found.text.split())
            bar.update(len(block))

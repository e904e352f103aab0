"""`engine translate --text_file IN --output OUT`: a line out for every line in."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from engine.cli.settings import decoding_options, load_model
from engine.cli.terminal import progress_bar, say
from engine.errors import OptionError
from engine.manifests import text_file
from engine.manifests.text_file import decode_text, split_lines
from engine.output.formats import write_text
from engine.output.targets import Inputs, check_target

LINES_AT_ONCE = 256
STANDARD_OUTPUT = (None, "-")


def run_text(options: argparse.Namespace) -> int:
    """Translate a text file line by line; empty lines stay empty."""
    if options.files:
        raise OptionError("--text_file together with audio files", "one of them", "run the command twice")
    if options.output_dir or options.output_format:
        raise OptionError("--text_file with --output_dir or --output_format", "--output OUT", "name a file")
    if options.output not in STANDARD_OUTPUT:
        check_target(options.output, Inputs([options.text_file] if options.text_file != "-" else []))
    lines = read_lines(options.text_file)
    translator = load_model(options)
    translated = _translated(translator, lines, options)
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


def _translated(translator: object, lines: list[str], options: argparse.Namespace) -> Iterator[str]:
    from engine.pipeline import SpeechTranslator

    assert isinstance(translator, SpeechTranslator)
    settings = decoding_options(options)
    with progress_bar(len(lines), "line", delay_s=2) as bar:
        for start in range(0, len(lines), LINES_AT_ONCE):
            block = lines[start : start + LINES_AT_ONCE]
            for line in translator.translate_text(block, settings):
                yield " ".join(line.split())
            bar.update(len(block))

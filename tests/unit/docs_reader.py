"""What the tests read out of the documentation: code blocks, command lines, links, paths."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("engine", "engine-bench", "engine-export", "engine-train")
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")


class Block(NamedTuple):
    """A fenced block: its page, relative to the root, its language and its text."""

    page: str
    language: str
    text: str


def pages() -> list[Path]:
    """Every page that the project writes for readers; not the cards that exporters write."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for folder in ("benchmarks", "training", "engine/kernels", "examples"):
        found += (ROOT / folder).rglob("*.md")
    return sorted(path for path in found if not path.name.endswith("_card.md"))


def blocks(*languages: str) -> list[Block]:
    """All fenced blocks in these languages, page by page."""
    return [
        Block(str(page.relative_to(ROOT)), language, text)
        for page in pages()
        for language, text in FENCE.findall(page.read_text(encoding="utf-8"))
        if language in languages
    ]


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of every command of a shell block, each part of a pipe or list by itself."""
    for block in blocks("bash"):
        text = block.text.replace("\\\n", " ")
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            for part in _split(words):
                yield block.page, part


def _split(words: list[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in [*words, ";"]:
        if word in ("|", "&&", "||", ";", "&"):
            if part:
                yield part
            part = []
        elif part or not re.fullmatch(r"[A-Z_]+=.*", word):
            part.append(word)


def without_redirections(words: list[str]) -> list[str]:
    """The words without `> FILE` and the like."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in (">", "2>", ">>", "<"):
            skip = True
        else:
            kept.append(word)
    return kept


def parser_of(program: str, arguments: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser that a program would use, and the arguments that are left for it."""
    if program == "engine":
        return importlib.import_module("engine.cli.parser").build_parser(), arguments
    if program == "engine-bench":
        subcommands = importlib.import_module("benchmarks.cli").SUBCOMMANDS
        name = arguments[0] if arguments and arguments[0] in subcommands else ""
        parser = argparse.ArgumentParser(prog=f"engine-bench {name}")
        subcommands[name][1](parser)
        return parser, arguments[1:] if name else arguments
    name, rest = arguments[0], arguments[1:]
    parser = argparse.ArgumentParser(prog=f"{program} {name}")
    if program == "engine-export":
        commands = {command.name: command for command in importlib.import_module("export.commands").COMMANDS}
        commands[name].add_arguments(parser)
    else:
        module = importlib.import_module("training.cli").COMMANDS[name][0]
        importlib.import_module(module).add_arguments(parser)
    return parser, rest

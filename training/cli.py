"""`engine-train`: one command for everything that makes or evaluates a checkpoint."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from engine._distribution import install_command
from engine.errors import DependencyError, EngineError
from engine.runtime.interrupts import run_program
from training.common.allocator import keep_freed_memory

EXIT_FAILED = 1
COMMANDS = {
    "asr": ("training.asr.command", "fine-tune, or train from scratch, a Wav2Vec2ForCTC"),
    "from-whisper": ("training.whisper.command", "train a CTC recogniser on a Whisper encoder"),
    "synthesize": ("training.synthesis.synthesize", "make a corpus of synthetic speech from text"),
    "align": ("training.alignment.command", "cut long recordings with approximate text into utterances"),
    "mt": ("training.mt.command", "train a Marian translation model"),
    "mt-data": ("training.mt.assemble", "assemble parallel text of allowed licences for mt"),
    "mt-distil": ("training.mt.distil", "let a large translation model write the English for a small one"),
    "mt-names": ("training.mt.names", "learn which German words English writes the same"),
    "mt-vocabulary": ("training.mt.vocabulary", "give a translation model other pieces, to train on"),
    "punctuation": (
        "training.punctuation.command",
        "train the tagger that restores capitals and punctuation",
    ),
    "language-model": ("training.lm.language_model", "build the KenLM model of the beam decoder"),
    "evaluate": ("training.asr.evaluate", "compare word and character error rates of checkpoints"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )
    if argv is None:
        keep_freed_memory()
    return run_program("engine-train", lambda: _guarded(arguments), whole_process=argv is None)


def _guarded(arguments: list[str]) -> int:
    try:
        return _run(arguments)
    except ModuleNotFoundError as error:
        missing = DependencyError(
            f"{error.name} is not installed", "the extra [train]", install_command("train")
        )
        logging.getLogger("training").error("%s", missing)
        return EXIT_FAILED
    except (EngineError, OSError) as error:
        logging.getLogger("training").error("%s", error)
        return EXIT_FAILED


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="engine-train", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module_name, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name in arguments[:1]:  # only the chosen command's module is imported: torch takes seconds
            importlib.import_module(module_name).add_arguments(command)
    options = parser.parse_args(arguments)
    return int(importlib.import_module(COMMANDS[options.command][0]).run(options))


if __name__ == "__main__":
    sys.exit(main())

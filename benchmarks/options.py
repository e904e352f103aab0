"""Options of all measuring subcommands, and how they become one measured run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.extras import SCORING, check_extras
from benchmarks.measures.systems import TASKS, EngineSystem, System
from benchmarks.run import PARTIAL_SUFFIX, Data, RunSettings, Ticker, load_data, load_engine, run_systems
from engine.output.targets import Inputs, check_apart

Others = Callable[[EngineSystem], Sequence[System]]


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def natural(text: str) -> int:
    """An integer of at least 0, for argparse."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is negative")
    return value


def fraction(text: str) -> float:
    """A finite number of at least 0, for argparse."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of at least 0")
    return value


def listed(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Several values separated by commas, for argparse."""

    def parse(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",")]

    return parse


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """What to measure, and on what."""
    default = RunSettings()
    parser.add_argument("--model", metavar="PATH", help="bundle folder or .onnx file (the embedded bundle)")
    parser.add_argument(
        "--data",
        metavar="MANIFEST",
        help="TSV (path, text_de, text_en) or JSONL (audio_filepath, text, translation), a corpus TSV with "
        "--clips, or a Hugging Face folder (the synthetic examples)",
    )
    parser.add_argument("--clips", metavar="DIR", help="clips of Common Voice, for its TSVs and CoVoST 2's")
    parser.add_argument("--split", default=default.split, help="split of CoVoST 2 (%(default)s)")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N utterances")
    parser.add_argument(
        "--strict", action="store_true", help="refuse data with notes, such as mixed sample rates"
    )


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """How the engine runs."""
    parser.add_argument("--task", choices=TASKS, help="(translate, where model and data allow it)")
    parser.add_argument("--threads", type=natural, metavar="N", help="0: all available cores (0)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="(auto)")
    parser.add_argument("--beam_size", type=positive, metavar="N", help="1 is greedy (as tuned)")
    parser.add_argument("--passes", type=int, choices=(1, 2), help="(2, where the model has a second pass)")
    parser.add_argument(
        "--translation_beam_size", type=positive, metavar="N", help="beams of the translator (--beam_size)"
    )


def add_measuring_options(parser: argparse.ArgumentParser) -> None:
    """How it is measured, and where the figures are written."""
    default = RunSettings()
    parser.add_argument(
        "--warmup", type=natural, metavar="N", help=f"utterances before the clock counts ({default.warmup})"
    )
    parser.add_argument(
        "--repeats",
        type=positive,
        metavar="N",
        help="passes over the data; 2 or more measure the noise floor",
    )
    parser.add_argument(
        "--json", metavar="OUT", help="write the result; an interrupted run resumes from OUT.partial.jsonl"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def settings_of(options: argparse.Namespace, **defaults: Any) -> RunSettings:
    """Settings from options that were given, then from defaults, then RunSettings' own."""
    names = RunSettings.__dataclass_fields__
    given = {
        name: value for name, value in vars(options).items() if name in names and value not in (None, [])
    }
    values = {name: value for name, value in defaults.items() if name in names} | given
    values["by"] = tuple(values.get("by") or ())
    return RunSettings(**values)


class Progress:
    """tqdm bars on standard error, one after another; only on terminals."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None

    def __call__(self, total: int, description: str) -> Ticker:
        """Start the next bar; returns what moves it."""
        from tqdm import tqdm

        self.close()
        bar = self._bar = tqdm(total=total, desc=description, disable=self._quiet or None, leave=False)
        return lambda: bar.update(1)

    def close(self) -> None:
        """End the last bar."""
        if self._bar is not None:
            self._bar.close()


def check_outputs(options: argparse.Namespace, data: Data) -> None:
    """Refuse, before anything is measured, to write figures over what they are made from.

    Raises:
        OutputError: --json or --report is the data, a recording, a result that is compared with, or a file of
            the model; or both are one file. --history may name --json, whose new result it then shows.
    """
    given = vars(options)
    compared = [] if given.get("update") else [given.get("baseline")]
    history = [name for name in given.get("history", ()) if name != given.get("json")]
    read = [data.path, *(item.path for item in data.utterances), *history, *compared]
    model = given.get("model")
    places = [Path(name) for name in (given.get("json"), given.get("report")) if name]
    written = [path for place in places for path in (place, place.with_name(place.name + PARTIAL_SUFFIX))]
    check_apart(written, [*filter(None, read), *(Path(model).glob("*") if model else ())])
    for place in places[1:]:
        Inputs(places[:1]).refuse(place)


def measure_engine(
    options: argparse.Namespace, settings: RunSettings, others: Others | None = None
) -> list[dict[str, Any]]:
    """Read, load, measure and score: the engine, and the systems that take turns with it.

    Args:
        others: makes the further systems, once the engine is loaded.
    Raises:
        EngineError: the data, the model or every measurement is bad.
    """
    check_extras(*SCORING)
    data = load_data(settings)
    check_outputs(options, data)
    engine_system = load_engine(settings, data.utterances)
    systems: list[System] = [engine_system]
    progress = Progress(options.quiet)
    try:
        systems += others(engine_system) if others else []
        output = Path(options.json) if options.json else None
        return run_systems(settings, systems, engine_system.task, data, output, progress)
    finally:
        progress.close()
        for system in systems:
            system.close()

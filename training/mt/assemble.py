"""`engine-train mt-data --config X.yaml`: parallel text of allowed licences, without what is tested on."""

from __future__ import annotations

import argparse
import io
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from engine.output.targets import check_apart
from training.common.config import (
    ConfigError,
    build_config,
    check_positive,
    parse_value,
    raise_problems,
    read_tree,
)
from training.mt.corpus_filters import HeldOut, find_fault, normalised
from training.mt.data import Pair, read_dev_set, read_lexicon, read_pairs

logger = logging.getLogger("training")
WRITTEN = ("train.tsv.zst", "sources.tsv", "licences.md")
ORDER = ("raw", "licence", "filtered", "held_out", "duplicate", "kept")


@dataclass(frozen=True)
class AssembleConfig:
    """What goes into a training corpus; every key is explained in configs/mt_data_de_en.yaml."""

    output_dir: str
    sources: tuple[str, ...]
    licences: Mapping[str, str]
    research: Mapping[str, str] = field(default_factory=dict)
    with_research: bool = False
    held_out: tuple[str, ...] = ()
    lexicon: str | None = None
    lexicon_text: tuple[str, ...] = ()
    max_words: int = 60
    max_copies: int = 1

    def __post_init__(self) -> None:
        problems = [] if self.sources else ["sources: no file given"]
        both = sorted(set(self.licences) & set(self.research))
        problems += [f"{name}: under licences and under research" for name in both]
        raise_problems(problems + check_positive(self, ("max_words", "max_copies")))

    @property
    def allowed(self) -> dict[str, str]:
        """Licence by source name, of all that may be taken."""
        return {**self.licences, **(self.research if self.with_research else {})}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `training mt-data`."""
    parser.add_argument(
        "--config", required=True, help="a YAML file such as training/configs/mt_data_de_en.yaml"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key: with_research=true"
    )


def run(args: argparse.Namespace) -> int:
    """Assemble; 0, or 1 with a message in the log."""
    overrides = {key: parse_value(value) for key, _, value in (text.partition("=") for text in args.set)}
    try:
        assemble(load_config(args.config, overrides))
    except (ValueError, OSError) as error:
        logger.error("%s", error)
        return 1
    return 0


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> AssembleConfig:
    """Read a YAML configuration.

    Raises:
        ConfigError: unknown or missing keys, wrong types, impossible values, all of them in one message.
    """
    tree = {**read_tree(Path(path)), **(overrides or {})}
    return build_config(AssembleConfig, tree, str(path), "training/configs/mt_data_de_en.yaml")


def assemble(config: AssembleConfig) -> Path:
    """Write the corpus, a table of its sources and a text on their licences.

    Returns:
        The folder: train.tsv.zst (German, English, source), sources.tsv, licences.md.
    Raises:
        ConfigError: nothing is left. ValueError, TextFileError: unreadable files.
    """
    folder = Path(config.output_dir)
    read = (*config.sources, *config.held_out, *config.lexicon_text, *filter(None, (config.lexicon,)))
    check_apart([folder / name for name in WRITTEN], read)
    held_out = HeldOut(text for path in config.held_out for pair in read_dev_set(Path(path)) for text in pair)
    counts: dict[str, Counter[str]] = {}
    pairs = list(_chosen(_all_pairs(config), config, held_out, counts))
    if not pairs:
        raise ConfigError("no pair is left", "sources that licences names", "see sources.tsv's columns")
    folder.mkdir(parents=True, exist_ok=True)
    _write_packed(folder / "train.tsv.zst", pairs)
    (folder / "sources.tsv").write_text(_table(counts, config), encoding="utf-8")
    (folder / "licences.md").write_text(_credits(counts, config), encoding="utf-8")
    logger.info("%d pairs of %d sources in %s", len(pairs), len({p.origin for p in pairs}), folder)
    return folder


def _all_pairs(config: AssembleConfig) -> Iterator[Pair]:
    for path in config.sources:
        yield from read_pairs(Path(path))
    if config.lexicon:
        yield from read_lexicon(Path(config.lexicon), [Path(path) for path in config.lexicon_text])


def _chosen(
    pairs: Iterable[Pair], config: AssembleConfig, held_out: HeldOut, counts: dict[str, Counter[str]]
) -> Iterator[Pair]:
    """The pairs that are taken; why others are not is counted by source."""
    allowed, seen = config.allowed, Counter[tuple[str, str]]()
    sides = (Counter[str](), Counter[str]())
    for pair in pairs:
        count = counts.setdefault(pair.origin, Counter())
        count["raw"] += 1
        keys = normalised(pair.source), normalised(pair.target)
        if pair.origin not in allowed:
            count["licence"] += 1
        elif find_fault(pair, config.max_words):
            count["filtered"] += 1
        elif held_out.holds(*keys):
            count["held_out"] += 1
        elif seen[keys] or any(side[key] >= config.max_copies for side, key in zip(sides, keys, strict=True)):
            count["duplicate"] += 1
        else:
            seen[keys] += 1
            for side, key in zip(sides, keys, strict=True):
                side[key] += 1
            count["kept"] += 1
            yield pair


def _write_packed(path: Path, pairs: Iterable[Pair]) -> None:
    beside = path.with_name(f".{path.name}.part")
    with beside.open("wb") as raw, zstandard.ZstdCompressor(10).stream_writer(raw) as packed:
        text = io.TextIOWrapper(packed, encoding="utf-8", newline="\n")
        for pair in pairs:
            text.write(f"{pair.source}\t{pair.target}\t{pair.origin}\n")
        text.flush()
        text.detach()
    beside.replace(path)


def _table(counts: Mapping[str, Counter[str]], config: AssembleConfig) -> str:
    """Source, licence, and how many pairs went where."""
    known = {**config.licences, **config.research}
    rows = ["\t".join(("source", "licence_name", *ORDER))]
    for origin, count in sorted(counts.items()):
        numbers = [str(count[name]) for name in ORDER]
        rows.append("\t".join([origin, known.get(origin, "not listed: left out"), *numbers]))
    return "\n".join(rows) + "\n"


def _credits(counts: Mapping[str, Counter[str]], config: AssembleConfig) -> str:
    """What a model card says of the data: sources by licence, and one line on what it allows."""
    by_licence: dict[str, list[str]] = {}
    for origin, count in sorted(counts.items()):
        if count["kept"]:
            by_licence.setdefault(config.allowed[origin], []).append(f"{origin} ({count['kept']:,})")
    research = config.with_research and any(
        counts[name]["kept"] for name in config.research if name in counts
    )
    use = "in part for research use only" if research else "all licences allow use in products"
    lines = [f"Training text: {use}. Pairs by licence:", ""]
    lines += [f"- {licence}: {', '.join(names)}" for licence, names in sorted(by_licence.items())]
    return "\n".join(lines) + "\n"

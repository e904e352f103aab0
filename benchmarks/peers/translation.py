"""Translation speed and quality against CTranslate2, transformers and optimum, with the same weights.

    python -m benchmarks.peers.translation CHECKPOINT EXPORT --tsv dev.tsv --limit 200 --json OUT

CHECKPOINT is a folder of MarianMTModel.save_pretrained, EXPORT the result of `export marian`. Systems take
turns batch by batch on one thread, peers in separate processes; times are CPU seconds. CTranslate2 runs
int8 with the instruction set in CT2_FORCE_CPU_ISA (AVX512 is its best where VNNI exists; set it before the
start); its matrix products are those of oneDNN, which ignores it: README.md, "All on AVX2".
A peer that is not installed, or whose output is wrong, is left out and named in the result.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.errors import PeerError, WrongOutputError
from benchmarks.peers.our_encoder import kernel_level
from benchmarks.peers.our_translator import NAMES, Ids, our_translators
from benchmarks.protocol.driver import Driver, Roster, Timing
from benchmarks.protocol.worker.peer_worker import level
from benchmarks.reports.provenance import provenance
from engine.manifests.text_file import read_lines
from engine.translation.tokenizer import Tokenizer

SCRIPTS = Path(__file__).parent / "translators"
PEERS = ("ctranslate2", "transformers", "optimum")
LENGTH_RATIO, LENGTH_SLACK = 2.0, 10
USABLE_BLEU, MIN_SHARE = 5.0, 0.5  # where the best has this BLEU, half of it means another model


def roster(args: argparse.Namespace) -> dict[str, Roster]:
    """The chosen peers' scripts and arguments."""
    checkpoint, vocabulary = ("--checkpoint", str(args.checkpoint)), str(args.export / "mt_vocabulary.json")
    scripts = {
        "ctranslate2": ("ctranslate2", (*checkpoint, "--vocabulary", vocabulary)),
        "transformers": ("transformers", checkpoint),
        "optimum": ("transformers", (*checkpoint, "--optimum")),
    }
    chosen = {name: scripts[name] for name in args.systems if name in scripts}
    return {
        name: Roster(
            SCRIPTS / f"{script}_translator.py", arguments, args.peer_python.get(name, sys.executable)
        )
        for name, (script, arguments) in chosen.items()
    }


def measure(
    driver: Driver,
    batches: Sequence[Sequence[Ids]],
    beam_size: int,
    rounds: int,
    vocab_size: int,
    forced: int = 0,
) -> dict[str, Timing]:
    """Every system over all batches in turn.

    Args:
        batches: sources as token ids.
        vocab_size: no output may be beyond it.
        forced: exactly so many output tokens; 0 lets the model decide.
    """
    items = [
        {
            "sources": list(batch),
            "limits": [forced or limit_of(source) for source in batch],
            "beam_size": beam_size,
            "forced": forced,
        }
        for batch in batches
    ]

    def check(index: int, outputs: Mapping[str, Any]) -> None:
        check_tokens(outputs.get("tokens"), len(batches[index]), vocab_size, forced)

    return driver.run(items, rounds, check)


def check_tokens(tokens: Any, n_sources: int, vocab_size: int, forced: int) -> None:
    """Check outputs: one for each source, of known tokens, and of the forced length.

    Raises:
        WrongOutputError: they are different.
    """
    if not isinstance(tokens, list) or len(tokens) != n_sources:
        raise WrongOutputError(f"tokens {str(tokens)[:60]}", f"{n_sources} lists of token ids")
    if not all(0 <= token < vocab_size for row in tokens for token in row):
        raise WrongOutputError("tokens outside the vocabulary", f"ids below {vocab_size}")
    lengths = {len(row) for row in tokens}
    if forced and max(abs(length - forced) for length in lengths) > 1:  # some count an end token
        raise WrongOutputError(f"outputs of {sorted(lengths)} tokens", f"{forced} tokens: equal work")


def figures(timings: Mapping[str, Timing]) -> dict[str, dict[str, float]]:
    """CPU milliseconds of all batches: best and median of the rounds."""
    return {
        name: {
            "cpu_ms_best": round(1e3 * timing.best_s(), 2),
            "cpu_ms_median": round(1e3 * timing.median_s(), 2),
        }
        for name, timing in timings.items()
    }


def bench_forced(
    driver: Driver, args: argparse.Namespace, vocab_size: int, sources: Sequence[Ids]
) -> dict[str, Any]:
    """Equal work for all: sources of 20 tokens, exactly args.forced output tokens."""
    same = [[*(source * 20)[:19], source[-1]] for source in sources[:32]]
    table = {}
    for batch_size in (1, 32):
        for beam_size in (1, 4):
            rounds = args.rounds * (6 if batch_size == 1 else 1)
            timings = measure(driver, [same[:batch_size]], beam_size, rounds, vocab_size, args.forced)
            table[f"batch{batch_size}_beam{beam_size}"] = _with_ratio(figures(timings))
    return {
        "tokens": args.forced,
        "signatures": {name: system.signature for name, system in driver.systems.items()},
        "absent": driver.why_not(),
        **table,
    }


def bench_quality(
    driver: Driver,
    vocab_size: int,
    tokenizer: Tokenizer,
    rows: Sequence[Sequence[str]],
    pieces: Sequence[str],
) -> dict[str, Any]:
    """BLEU of each system on many sentences, each translated once, in batches of similar length."""
    import sacrebleu

    rows = sorted(rows, key=lambda row: len(row[1]))
    sources = encode(tokenizer, rows, pieces)
    batches = [sources[start : start + 32] for start in range(0, len(sources), 32)]
    table: dict[str, Any] = {"sentences": len(rows)}
    bleu = sacrebleu.BLEU()
    for beam_size in (1, 4):
        timings = measure(driver, batches, beam_size, 0, vocab_size)
        references = [[row[2] for row in rows]]
        table[f"beam{beam_size}"] = {
            name: round(bleu.corpus_score(texts_of(timing, tokenizer), references).score, 2)
            for name, timing in timings.items()
        }
    return {**table, "signature": str(bleu.get_signature())}


def texts_of(timing: Timing, tokenizer: Tokenizer) -> list[str]:
    """A system's translations, sentence by sentence."""
    return [tokenizer.decode(ids) for outputs in timing.outputs for ids in outputs["tokens"]]


def limit_of(source: Ids) -> int:
    """The most output tokens of a source."""
    return int(LENGTH_RATIO * len(source)) + LENGTH_SLACK


def encode(tokenizer: Tokenizer, rows: Sequence[Sequence[str]], pieces: Sequence[str]) -> list[Ids]:
    """Token ids of the German column, with the end token."""
    eos = pieces.index("</s>")
    return [[*ids, eos] for ids in tokenizer.encode([row[1] for row in rows])]


def bench_real(
    driver: Driver,
    args: argparse.Namespace,
    vocab_size: int,
    tokenizer: Tokenizer,
    rows: Sequence[Sequence[str]],
    sources: Sequence[Ids],
) -> dict[str, Any]:
    """Real sentences, with the BLEU of each system's translations in this run."""
    import sacrebleu

    table: dict[str, Any] = {"sentences": len(rows)}
    for batch_size, beam_size in ((1, 1), (1, 4), (32, 1), (32, 4)):
        batches = [sources[i : i + batch_size] for i in range(0, len(sources), batch_size)]
        timings = measure(driver, batches, beam_size, max(1, args.rounds // 4), vocab_size)
        found = figures(timings)
        for name, timing in timings.items():
            references = [[row[2] for row in rows]]
            bleu = sacrebleu.corpus_bleu(texts_of(timing, tokenizer), references).score
            found[name]["bleu"] = round(bleu, 2)
        for name, why in too_far_below(found).items():
            driver.lost[name] = why
            del found[name]
        table[f"batch{batch_size}_beam{beam_size}"] = _with_ratio(found)
    if driver.why_not():
        table["absent"] = driver.why_not()
    return table


def too_far_below(found: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Systems whose translations are not those of the same model, and why; none where all are useless."""
    best = max((row["bleu"] for row in found.values()), default=0.0)
    if best < USABLE_BLEU:
        return {}
    return {
        name: f"BLEU {row['bleu']} where the best has {best}: not the same model"
        for name, row in found.items()
        if row["bleu"] < MIN_SHARE * best
    }


def _with_ratio(figures: dict[str, dict[str, float]]) -> dict[str, Any]:
    """How many times faster than CTranslate2 the engine is."""
    if "ctranslate2" not in figures or "engine" not in figures:
        return dict(figures)
    best, median = (
        round(figures["ctranslate2"][key] / figures["engine"][key], 2)
        for key in ("cpu_ms_best", "cpu_ms_median")
    )
    return {**figures, "engine_speedup_best": best, "engine_speedup_median": median}


def spread(lines: Sequence[str], n: int) -> list[list[str]]:
    """At most n lines, evenly spread, as columns."""
    return [line.split("\t") for line in lines[:: max(1, len(lines) // n)][:n]]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("export", type=Path)
    parser.add_argument("--tsv", type=Path, required=True, help="id<TAB>German<TAB>English lines")
    parser.add_argument("--limit", type=int, default=128, help="real sentences; 0 leaves them out")
    parser.add_argument("--forced", type=int, default=25, help="output tokens of the equal-work part")
    parser.add_argument("--rounds", type=int, default=8, help="0 leaves the timing out")
    parser.add_argument("--quality", type=int, default=0, metavar="N", help="BLEU on N sentences, once each")
    parser.add_argument("--systems", default="engine,ctranslate2", help=", ".join((*NAMES, *PEERS)))
    parser.add_argument("--peer_python", nargs="*", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    args.systems = args.systems.split(",")
    args.peer_python = dict(pair.partition("=")[::2] for pair in args.peer_python)
    unknown = [n for n in (*args.systems, *args.peer_python) if n not in (*NAMES, *PEERS)]
    if unknown:
        parser.error(f"unknown {', '.join(unknown)}; there are {', '.join((*NAMES, *PEERS))}")
    return args


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """All parts that were asked for."""
    vocabulary = json.loads((args.export / "mt_vocabulary.json").read_text(encoding="utf-8"))
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    models = [(args.export / f"mt_tokenizer{part}.model").read_bytes() for part in ("", "_target")]
    tokenizer = Tokenizer(models[0], models[1], vocabulary)
    lines = read_lines(args.tsv)
    rows = spread(lines, args.limit or 32)
    sources = encode(tokenizer, rows, pieces)
    ours, left_out = our_translators(args.export, [name for name in args.systems if name in NAMES])
    result: dict[str, Any] = {}
    with Driver(ours) as driver:
        driver.left_out |= left_out
        driver.start(roster(args))
        if args.rounds:
            result["forced"] = bench_forced(driver, args, len(pieces), sources)
        if args.rounds and args.limit:
            result["real"] = bench_real(driver, args, len(pieces), tokenizer, rows, sources)
        if args.quality:
            sentences = spread(lines, args.quality)
            result["quality"] = bench_quality(driver, len(pieces), tokenizer, sentences, pieces)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the JSON."""
    args = parse(argv)
    result: dict[str, Any] = {
        **provenance("python -m benchmarks.peers.translation", argv),
        "machine": platform.processor() or platform.machine(), "python": platform.python_version(),
        "kernels": kernel_level(), "level": f"level:{level()}", "threads": 1,
        "clock": "CPU time, systems in turn; best and median of rounds",
        **compare(args),
    }  # fmt: skip
    text = json.dumps(result, indent=2, ensure_ascii=False)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except PeerError as error:
        raise SystemExit(f"error: {error}") from error

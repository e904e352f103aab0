"""Translation speed and quality against CTranslate2, transformers and optimum, with the same weights.

    python -m benchmarks.peers.translation CHECKPOINT EXPORT --tsv dev.tsv --limit 200 --json OUT

CHECKPOINT is a folder of MarianMTModel.save_pretrained, EXPORT what `export marian` made of it. Systems
take turns batch by batch in one process on one thread; times are CPU seconds. CTranslate2 runs int8 with
the instruction set in CT2_FORCE_CPU_ISA (AVX512 is its best where VNNI exists; set it before the start);
its matrix products are those of oneDNN, which does not obey that: README.md, "All on AVX2".
A peer that is not installed is left out and named in the result.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.peers.encoder_worker import level
from benchmarks.peers.our_encoder import kernel_level
from benchmarks.reports.provenance import provenance
from engine.bundle.schema import TranslationConfig
from engine.manifests.text_file import read_lines
from engine.translation.search import EncoderDecoder, padded_length
from engine.translation.tokenizer import Tokenizer

Ids = list[int]
Translate = Callable[[Sequence[Ids], Sequence[int], int], list[Ids]]
LENGTH_RATIO, LENGTH_SLACK = 2.0, 10


class Engine:
    """This project: the graphs of EXPORT."""

    def __init__(self, folder: Path, forced: int, kernels: bool) -> None:
        import msgspec

        from export.translation.runners import open_kernels, open_sessions

        config = msgspec.json.decode((folder / "translation.json").read_bytes(), type=TranslationConfig)
        if forced:  # an end token that no vocabulary has
            config = msgspec.structs.replace(config, eos_id=config.vocab_size)
        runner: Any = open_kernels(folder, config) if kernels else open_sessions(folder, config)
        if runner is None:
            raise ImportError("the engine's own kernels do not compute this model here")
        self._model = EncoderDecoder(runner, config)
        self.signature = (
            f"engine:{config.precision}|{runner.backend}|onnxruntime:{_version('onnxruntime-gpu')}"
        )

    def translate(self, sources: Sequence[Ids], limits: Sequence[int], beam_size: int) -> list[Ids]:
        """Group by padded length, as the runtime's Translator does."""
        groups: dict[int, list[int]] = {}
        for index, source in enumerate(sources):
            groups.setdefault(padded_length(len(source)), []).append(index)
        outputs: list[Ids] = [[] for _ in sources]
        for rows in groups.values():
            found = self._model.generate(
                [sources[i] for i in rows], [limits[i] for i in rows], beam_size=beam_size, length_penalty=1.0
            )
            for i, hypotheses in zip(rows, found, strict=True):
                outputs[i] = list(hypotheses[0].tokens)
        return outputs


class CTranslate2:
    """CTranslate2 int8 from the same checkpoint."""

    def __init__(self, checkpoint: Path, pieces: Sequence[str], forced: int) -> None:
        import ctranslate2

        folder = Path(tempfile.mkdtemp()) / "ct2"
        converter = ctranslate2.converters.TransformersConverter(str(checkpoint))
        converter.convert(str(folder), quantization="int8")
        self._model = ctranslate2.Translator(str(folder), device="cpu", compute_type="int8", intra_threads=1)
        self._pieces, self._forced = pieces, forced
        self._ids = {piece: i for i, piece in enumerate(pieces)}
        isa = os.environ.get("CT2_FORCE_CPU_ISA", "default")
        self.signature = f"ctranslate2:{ctranslate2.__version__}|int8|isa:{isa}"

    def translate(self, sources: Sequence[Ids], limits: Sequence[int], beam_size: int) -> list[Ids]:
        """One call; CTranslate2 has one limit for the batch."""
        tokens = [[self._pieces[i] for i in source] for source in sources]
        results = self._model.translate_batch(
            tokens, beam_size=beam_size, max_decoding_length=max(limits), max_batch_size=0,
            min_decoding_length=self._forced or 1, length_penalty=1.0, return_end_token=bool(self._forced),
        )  # fmt: skip
        return [[self._ids.get(piece, 1) for piece in result.hypotheses[0]] for result in results]


class Generate:
    """transformers' generate in float32, or optimum's ORTModelForSeq2SeqLM behind the same call."""

    def __init__(self, checkpoint: Path, forced: int, optimum: bool) -> None:
        import torch

        torch.set_num_threads(1)
        if optimum:
            from onnxruntime import SessionOptions
            from optimum.onnxruntime import ORTModelForSeq2SeqLM

            options = SessionOptions()
            options.intra_op_num_threads = 1  # more would spin on, at the cost of whoever comes next
            self._model = ORTModelForSeq2SeqLM.from_pretrained(
                checkpoint, export=True, session_options=options
            )
            self.signature = f"optimum-onnx:{_version('optimum-onnx')}|fp32"
        else:
            from transformers import MarianMTModel

            self._model = MarianMTModel.from_pretrained(checkpoint).eval()
            self.signature = f"transformers:{_version('transformers')}|fp32|torch:{torch.__version__}"
        self._torch, self._forced = torch, forced

    def translate(self, sources: Sequence[Ids], limits: Sequence[int], beam_size: int) -> list[Ids]:
        """Pad the batch and generate."""
        pad, eos = self._model.config.pad_token_id, self._model.config.eos_token_id
        width = max(map(len, sources))
        ids = self._torch.tensor([[*source, *[pad] * (width - len(source))] for source in sources])
        generated = self._model.generate(
            input_ids=ids, attention_mask=(ids != pad).long(), num_beams=beam_size, do_sample=False,
            max_new_tokens=max(limits), min_new_tokens=self._forced or None, max_length=None,
            bad_words_ids=[[pad]],
        )  # fmt: skip
        return [[t for t in row if t not in (pad, eos)] for row in generated[:, 1:].tolist()]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def load_systems(
    args: argparse.Namespace, pieces: Sequence[str], forced: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """The systems that can be loaded, and why others cannot."""
    makers: dict[str, Callable[[], Any]] = {
        "engine": lambda: Engine(args.export, forced, kernels=True),
        "engine by onnxruntime": lambda: Engine(args.export, forced, kernels=False),
        "ctranslate2": lambda: CTranslate2(args.checkpoint, pieces, forced),
        "transformers": lambda: Generate(args.checkpoint, forced, optimum=False),
        "optimum": lambda: Generate(args.checkpoint, forced, optimum=True),
    }
    systems, absent = {}, {}
    for name in args.systems.split(","):
        try:
            systems[name] = makers[name]()
        except ImportError as error:
            absent[name] = str(error)
    return systems, absent


def measure(
    systems: dict[str, Any],
    batches: Sequence[Sequence[Ids]],
    limits: Callable[[Ids], int],
    beam_size: int,
    rounds: int,
) -> tuple[dict[str, dict[str, float]], dict[str, list[Ids]]]:
    """CPU seconds of every system over all batches, in turn; also the outputs of the last round."""
    spent: dict[str, list[list[float]]] = {name: [[] for _ in batches] for name in systems}
    outputs: dict[str, list[Ids]] = {}
    for round_index in range(rounds + 1):  # the first one warms up
        outputs = {name: [] for name in systems}
        for index, batch in enumerate(batches):
            for name, system in systems.items():
                start = time.process_time()
                outputs[name] += system.translate(batch, [limits(source) for source in batch], beam_size)
                if round_index:
                    spent[name][index].append(time.process_time() - start)
    figures = {
        name: {
            "cpu_ms_best": round(1e3 * sum(map(min, times)), 2),
            "cpu_ms_median": round(1e3 * sum(map(statistics.median, times)), 2),
        }
        for name, times in spent.items()
    }
    return figures, outputs


def bench_forced(args: argparse.Namespace, pieces: Sequence[str], sources: Sequence[Ids]) -> dict[str, Any]:
    """Equal work for all: sources of 20 tokens, args.forced output tokens whatever the model says."""
    systems, absent = load_systems(args, pieces, args.forced)
    same = [[*(source * 20)[:19], source[-1]] for source in sources[:32]]
    table = {}
    for batch_size in (1, 32):
        for beam_size in (1, 4):
            rounds = args.rounds * (6 if batch_size == 1 else 1)
            figures, _ = measure(systems, [same[:batch_size]], lambda _: args.forced, beam_size, rounds)
            table[f"batch{batch_size}_beam{beam_size}"] = _with_ratio(figures)
    return {
        "tokens": args.forced,
        "signatures": {n: s.signature for n, s in systems.items()},
        "absent": absent,
        **table,
    }


def bench_quality(
    args: argparse.Namespace, pieces: Sequence[str], tokenizer: Tokenizer, rows: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """BLEU of each system on many sentences, each translated once; sentences of like length share a batch."""
    import sacrebleu

    systems, _ = load_systems(args, pieces, 0)
    rows = sorted(rows, key=lambda row: len(row[1]))
    sources = encode(tokenizer, rows, pieces)
    table: dict[str, Any] = {"sentences": len(rows)}
    bleu = sacrebleu.BLEU()
    for beam_size in (1, 4):
        found: dict[str, list[str]] = {name: [] for name in systems}
        for start in tqdm(range(0, len(sources), 32), desc=f"beam {beam_size}", leave=False):
            batch = sources[start : start + 32]
            for name, system in systems.items():
                ids = system.translate(batch, [limit_of(source) for source in batch], beam_size)
                found[name] += [tokenizer.decode(each) for each in ids]
        references = [[row[2] for row in rows]]
        table[f"beam{beam_size}"] = {
            name: round(bleu.corpus_score(texts, references).score, 2) for name, texts in found.items()
        }
    return {**table, "signature": str(bleu.get_signature())}


def limit_of(source: Ids) -> int:
    """The most output tokens of a source."""
    return int(LENGTH_RATIO * len(source)) + LENGTH_SLACK


def encode(tokenizer: Tokenizer, rows: Sequence[Sequence[str]], pieces: Sequence[str]) -> list[Ids]:
    """Token ids of the German column, with the end token."""
    eos = pieces.index("</s>")
    return [[*ids, eos] for ids in tokenizer.encode([row[1] for row in rows])]


def bench_real(
    args: argparse.Namespace,
    pieces: Sequence[str],
    tokenizer: Tokenizer,
    rows: Sequence[Sequence[str]],
    sources: Sequence[Ids],
) -> dict[str, Any]:
    """Real sentences, with the BLEU of what each system made of them."""
    import sacrebleu

    systems, _ = load_systems(args, pieces, 0)
    table: dict[str, Any] = {"sentences": len(rows)}
    for batch_size, beam_size in ((1, 1), (1, 4), (32, 1), (32, 4)):
        batches = [sources[i : i + batch_size] for i in range(0, len(sources), batch_size)]
        figures, outputs = measure(systems, batches, limit_of, beam_size, max(1, args.rounds // 4))
        for name, found in outputs.items():
            texts = [tokenizer.decode(ids) for ids in found]
            figures[name]["bleu"] = round(sacrebleu.corpus_bleu(texts, [[row[2] for row in rows]]).score, 2)
        table[f"batch{batch_size}_beam{beam_size}"] = _with_ratio(figures)
    return table


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


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the JSON."""
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
    parser.add_argument("--systems", default="engine,ctranslate2")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    vocabulary = json.loads((args.export / "mt_vocabulary.json").read_text(encoding="utf-8"))
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    models = [(args.export / f"mt_tokenizer{part}.model").read_bytes() for part in ("", "_target")]
    tokenizer = Tokenizer(models[0], models[1], vocabulary)
    lines = read_lines(args.tsv)
    rows = spread(lines, args.limit or 32)
    sources = encode(tokenizer, rows, pieces)
    result: dict[str, Any] = {
        **provenance("python -m benchmarks.peers.translation", argv),
        "machine": platform.processor() or platform.machine(), "python": platform.python_version(),
        "kernels": kernel_level(), "level": level(), "threads": 1,
        "clock": "CPU time, systems in turn; best and median of rounds",
    }  # fmt: skip
    if args.rounds:
        result["forced"] = bench_forced(args, pieces, sources)
    if args.rounds and args.limit:
        result["real"] = bench_real(args, pieces, tokenizer, rows, sources)
    if args.quality:
        result["quality"] = bench_quality(args, pieces, tokenizer, spread(lines, args.quality))
    text = json.dumps(result, indent=2, ensure_ascii=False)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`training language-model`: from text to the n-gram model, lexicon and card of the beam decoder.

The first corpus is the domain. Of every further one, the sentences that look most like the
domain are taken (cross-entropy difference of two bigram models, Moore and Lewis 2010), as
many as lower the perplexity of the development text.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import io
import json
import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from engine.decoding import CtcBeamDecoder
from engine.decoding.ngram import NgramModel
from engine.text import NORMALIZER, VOCABULARY, normalize_text
from training.kenlm_tools import estimate, write_binary

SELECTED_SHARES = (0.0, 0.15, 0.35)  # of the further corpora; 1.0 only where the caller weights it so
SELECTION_PRUNE, SELECTION_WORDS = "0 1", 100_000
logger = logging.getLogger("training")


@dataclass(frozen=True)
class Corpus:
    """One text: its path, and how much a word in it counts when the vocabulary is chosen."""

    path: Path
    weight: float


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text.

    Attributes:
        perplexity: per token, unknown words and ends of sentences included.
        perplexity_known: the same over known words only.
        oov_rate: share of unknown words among all tokens.
        tokens: words and ends of sentences.
    """

    perplexity: float
    perplexity_known: float
    oov_rate: float
    tokens: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("text", nargs="+", help="one sentence a line, plain or .zst; first the domain")
    parser.add_argument(
        "--weights", help="of the texts when choosing the vocabulary, such as 4,1 (default: 1)"
    )
    parser.add_argument("--order", type=int, default=3, help="longest n-gram, 2 to 6 (default: 3)")
    parser.add_argument("--prune", default="0 1 1", help="n-grams seen this often or less go, by order")
    parser.add_argument("--vocabulary", type=int, default=145_000, help="the most frequent words to keep")
    parser.add_argument("--bits", type=int, default=8, help="of a quantised probability; 0 for exact ones")
    parser.add_argument("--dev", type=Path, help="development text; for perplexity and selection")
    parser.add_argument("--exclude", type=Path, nargs="*", default=[], help="sentences the text may not hold")
    parser.add_argument("--normalized", action="store_true", help="the texts are normalised already")
    parser.add_argument("--memory", default="2G", help="for lmplz")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for lm.bin, lexicon.npz and card.json"
    )


def run(options: argparse.Namespace) -> int:
    """Build the model; returns the exit code."""
    corpora = _read_corpora(options)
    work = options.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    forbidden = {line for path in options.exclude for line in read_sentences(path, options.normalized)}
    dev = list(read_sentences(options.dev, options.normalized)) if options.dev else []
    texts = [
        list(dict.fromkeys(s for s in read_sentences(corpus.path, options.normalized) if s not in forbidden))
        for corpus in corpora
    ]
    vocabulary = work / "vocabulary.txt"
    words = choose_vocabulary(texts, [corpus.weight for corpus in corpora], options.vocabulary)
    vocabulary.write_text(" ".join(words), encoding="utf-8")
    further = sort_by_likeness(texts[0], [s for text in texts[1:] for s in text], work, options.memory)
    share, figures = 0.0, {}
    shares = SELECTED_SHARES if dev and further else (0.0,)
    for candidate in shares:
        _estimate(texts[0] + further[: int(candidate * len(further))], options, work, vocabulary)
        figures[candidate] = measure_perplexity(NgramModel(work / "lm.bin"), dev) if dev else None
        logger.info("share %.2f: %s", candidate, figures[candidate])
    if dev:
        share = min(shares, key=lambda candidate: figures[candidate].perplexity)
        if share != shares[-1]:
            _estimate(texts[0] + further[: int(share * len(further))], options, work, vocabulary)
    lexicon = CtcBeamDecoder(VOCABULARY, work / "lm.bin", unigrams=words)
    lexicon.save_lexicon(work / "lexicon.npz")
    _publish(options, corpora, work, share, figures[share])
    return 0


def read_sentences(path: Path, normalized: bool = False) -> Iterator[str]:
    """Yield the normalised, non-empty lines of a text, which may be compressed with zstandard."""
    if path.suffix == ".zst":
        import zstandard

        with path.open("rb") as raw:
            lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw), encoding="utf-8")
            yield from _normalize(lines, normalized)
    else:
        with path.open(encoding="utf-8") as lines:
            yield from _normalize(lines, normalized)


def _normalize(lines: io.TextIOBase | io.TextIOWrapper, normalized: bool) -> Iterator[str]:
    for line in lines:
        sentence = line.strip() if normalized else normalize_text(line)
        if sentence:
            yield sentence


def choose_vocabulary(texts: Sequence[Sequence[str]], weights: Sequence[float], size: int) -> list[str]:
    """The `size` words with the highest weighted counts, most frequent first."""
    counts: collections.Counter[str] = collections.Counter()
    for text, weight in zip(texts, weights, strict=True):
        for word, count in collections.Counter(word for s in text for word in s.split()).items():
            counts[word] += count * weight  # type: ignore[assignment]
    return [word for word, _ in counts.most_common(size)]


def sort_by_likeness(domain: Sequence[str], other: Sequence[str], work: Path, memory: str) -> list[str]:
    """Other sentences, those that look most like the domain and least like the rest first."""
    if not other:
        return []
    vocabulary = work / "selection.txt"
    vocabulary.write_text(
        " ".join(choose_vocabulary([domain, other], [1, 1], SELECTION_WORDS)), encoding="utf-8"
    )
    scores = np.zeros(len(other))
    lengths = np.array([len(sentence.split()) + 1 for sentence in other])
    for sign, text in ((1, domain), (-1, other)):
        text_path, arpa, binary = work / "selection.text", work / "selection.arpa", work / "selection.bin"
        text_path.write_text("\n".join(text) + "\n", encoding="utf-8")
        estimate(text_path, arpa, 2, SELECTION_PRUNE, vocabulary, memory)
        write_binary(arpa, binary, 8)
        model = NgramModel(binary)
        scores += sign * np.array([model.score(sentence) for sentence in other])
    order = np.argsort(-scores / lengths, kind="stable")
    return [other[i] for i in order]


def measure_perplexity(model: NgramModel, sentences: Sequence[str]) -> Perplexity:
    """Perplexity and rate of unknown words of a text."""
    total, known, tokens, unknown = 0.0, 0.0, 0, 0
    for sentence in sentences:
        words = sentence.split()
        scores = model.score_words(words)
        missing = np.append(model.find_words(words) == 0, False)
        total += scores.sum()
        known += scores[~missing].sum()
        tokens += len(scores)
        unknown += int(missing.sum())
    rate = unknown / max(tokens, 1)
    log_known = known / max(tokens - unknown, 1)
    return Perplexity(math.pow(10, -total / max(tokens, 1)), math.pow(10, -log_known), rate, tokens)


def _read_corpora(options: argparse.Namespace) -> list[Corpus]:
    weights = [float(w) for w in options.weights.split(",")] if options.weights else [1.0] * len(options.text)
    if len(weights) != len(options.text):
        raise SystemExit(f"{len(weights)} weights for {len(options.text)} texts; give one each")
    return [Corpus(Path(path), weight) for path, weight in zip(options.text, weights, strict=True)]


def _estimate(sentences: Sequence[str], options: argparse.Namespace, work: Path, vocabulary: Path) -> None:
    text, arpa = work / "text", work / "lm.arpa"
    text.write_text("\n".join(sentences) + "\n", encoding="utf-8")
    estimate(text, arpa, options.order, options.prune, vocabulary, options.memory)
    write_binary(arpa, work / "lm.bin", options.bits)


def _publish(
    options: argparse.Namespace,
    corpora: Sequence[Corpus],
    work: Path,
    share: float,
    figures: Perplexity | None,
) -> None:
    """Move the results to their place and write the card beside them."""
    model = NgramModel(work / "lm.bin")
    files = {}
    for name in ("lm.bin", "lexicon.npz"):
        data = (work / name).read_bytes()
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    card = {
        "order": model.order,
        "ngrams": list(model.counts),
        "prune": options.prune,
        "quantised_bits": options.bits,
        "normalizer": NORMALIZER,
        "texts": [{"name": corpus.path.name, "weight": corpus.weight} for corpus in corpora],
        "selected_share_of_further_texts": share,
        "development": {"name": options.dev.name, **asdict(figures)} if figures else None,
        "files": files,
    }
    for name in files:
        shutil.move(work / name, options.out / name)
    (options.out / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(work)
    logger.info("wrote %s: %s", options.out, json.dumps(card["development"]))

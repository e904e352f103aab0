"""`training language-model`: from text to the n-gram model, lexicon and card of the beam decoder.

Several texts become one model in one of two ways. With --weights each text gets a model, and the models are
interpolated; `--weights tuned` finds the weights on the development text. Without it, the first text is the
domain, and the sentences of the other texts that are most similar to it are added (cross-entropy difference
of two bigram models, Moore and Lewis 2010), as many as lower the perplexity of the development text.

With --tune the model's weight and the bonus for a word are also found, on a development set of speech, and
written to decoding.json for `engine-export bundle --decoding`.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import logging
import math
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.decoding import CtcBeamDecoder
from engine.decoding.ngram import NgramModel
from engine.errors import OptionError
from engine.output.targets import check_apart
from engine.text import NORMALIZER, VOCABULARY, normalize_text
from training.common.text_files import TextFileError, read_text
from training.lm.decoder_tuning import Development, describe, load_development, tune
from training.lm.kenlm_tools import estimate, write_binary
from training.lm.ngram_mixing import mix, tune_weights
from training.lm.spoken import make_phrases, needs_reading, read_aloud

SELECTED_SHARES = (0.0, 0.15, 0.35)  # of the other corpora
SELECTION_PRUNE, SELECTION_WORDS = "0 1", 100_000
MIN_ORDER, MAX_ORDER, MAX_BITS = 2, 6, 25  # of the engine's reader, and of build_binary
PRUNE = "0 1 1"  # as many of them as there are orders
WRITTEN = ("work", "lm.bin", "lexicon.npz", "card.json", "decoding.json")  # in the output folder
TUNED = "tuned"  # as --weights
logger = logging.getLogger("training")


@dataclass(frozen=True)
class Corpus:
    """One text: its path, and its weight in the mixture and when the vocabulary is chosen."""

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
    parser.add_argument("text", nargs="+", help="one sentence per line, plain or .zst; first the domain")
    parser.add_argument(
        "--weights",
        help="interpolate a model of each text: their weights, such as 4,1 (also used to choose the "
        "vocabulary); or `tuned`: those that are best for --dev",
    )
    parser.add_argument("--order", type=int, default=3, help="longest n-gram, 2 to 6 (default: 3)")
    parser.add_argument(
        "--prune", help=f"remove n-grams with this count or less, by order (default: {PRUNE})"
    )
    parser.add_argument(
        "--vocabulary", type=int, default=145_000, help="size of the vocabulary: the most frequent words"
    )
    parser.add_argument(
        "--bits", type=int, default=8, help="bits of a quantised probability; 0 for exact ones"
    )
    parser.add_argument("--dev", type=Path, help="development text; for perplexity and selection")
    parser.add_argument(
        "--exclude", type=Path, nargs="*", default=[], help="text whose sentences are removed from the others"
    )
    parser.add_argument(
        "--tune", type=Path, metavar="BUNDLE", help="find alpha and beta with this bundle, or saved emissions"
    )
    parser.add_argument("--tune-manifest", type=Path, help="development speech and its texts, for --tune")
    parser.add_argument("--beam-width", type=int, default=64, help="of --tune (default: 64)")
    parser.add_argument("--normalized", action="store_true", help="the texts are normalised already")
    parser.add_argument(
        "--spoken", type=int, default=0, metavar="N",
        help="add sentences with digits or abbreviations in each of N ways to read them aloud",
    )  # fmt: skip
    parser.add_argument(
        "--phrases", type=int, default=0, metavar="N",
        help="add N phrases with names, dates, times and money, as they are said, to the first text",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of --spoken and --phrases")
    parser.add_argument("--memory", default="2G", help="for lmplz")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for lm.bin, lexicon.npz, card.json and decoding.json"
    )


def run(options: argparse.Namespace) -> int:
    """Build the model; returns the exit code."""
    options.prune = options.prune or " ".join(PRUNE.split()[: options.order])
    check_options(options)
    corpora = _read_corpora(options)
    development = load_development(options.tune, options.tune_manifest) if options.tune else None
    read = [*options.text, *options.exclude, *filter(None, (options.dev, options.tune_manifest))]
    check_apart([options.out / name for name in WRITTEN], read)
    work = options.out / "work"
    work.mkdir(parents=True, exist_ok=True)
    forbidden = {line for path in options.exclude for line in read_sentences(path, options.normalized)}
    dev = list(read_sentences(options.dev, options.normalized)) if options.dev else []
    texts = [_read_corpus(corpus, options, forbidden) for corpus in corpora]
    texts[0] += make_phrases(options.phrases, options.seed)
    for corpus, text in zip(corpora, texts, strict=True):
        if not text:
            got = f"{corpus.path}: no sentence is left after --exclude"
            raise TextFileError(got, "one sentence per line", "give another text")
    vocabulary = work / "vocabulary.txt"
    words = choose_vocabulary(texts, [corpus.weight for corpus in corpora], options.vocabulary)
    vocabulary.write_text(" ".join(words), encoding="utf-8")
    build = _build_mixture if options.weights else _build_selection
    how = build(texts, corpora, dev, options, work, vocabulary)
    how["development"] = _describe_development(options, work / "lm.bin", dev)
    lexicon = CtcBeamDecoder(VOCABULARY, work / "lm.bin", unigrams=words)
    lexicon.save_lexicon(work / "lexicon.npz")
    if development:
        how["tuning"] = _tune(development, words, options, work)
    _publish(options, corpora, work, how)
    return 0


def check_options(options: argparse.Namespace) -> None:
    """Refuse options that KenLM would refuse after minutes of work.

    Raises:
        OptionError: an impossible order, threshold, vocabulary, number of bits or size of memory.
    """
    thresholds = options.prune.split()
    numbers = [int(each) for each in thresholds if each.isdecimal()]
    rising = len(numbers) == len(thresholds) and numbers == sorted(numbers)
    checks = {
        "--order": (options.order, MIN_ORDER <= options.order <= MAX_ORDER, f"{MIN_ORDER} to {MAX_ORDER}"),
        "--prune": (
            repr(options.prune),
            rising and 0 < len(numbers) <= options.order,
            f"at most {options.order} counts that do not fall, such as '0 1 1'",
        ),
        "--vocabulary": (options.vocabulary, options.vocabulary > 0, "1 or more words"),
        "--bits": (options.bits, 0 <= options.bits <= MAX_BITS, f"0 to {MAX_BITS}"),
        "--memory": (
            options.memory,
            re.fullmatch(r"\d+(%|[KMGTbkmgt]?)", options.memory),
            "such as 2G or 50%",
        ),
    }
    for name, (value, right, wanted) in checks.items():
        if not right:
            raise OptionError(f"{name} {value}", wanted, "see --help")


def _build_selection(
    texts: Sequence[Sequence[str]],
    _corpora: Sequence[Corpus],
    dev: Sequence[str],
    options: argparse.Namespace,
    work: Path,
    vocabulary: Path,
) -> dict[str, Any]:
    """Estimate one model of the first text and of similar sentences of the others."""
    domain = list(texts[0])
    further = sort_by_likeness(domain, [s for text in texts[1:] for s in text], work, options.memory)
    shares = SELECTED_SHARES if dev and further else (0.0,)
    found: dict[float, float] = {}
    for share in shares:
        _estimate(domain + further[: int(share * len(further))], options, work, vocabulary)
        found[share] = measure_perplexity(NgramModel(work / "lm.bin"), dev).perplexity if dev else 0.0
        if dev:
            logger.info("share %.2f: perplexity %.1f", share, found[share])
    best = min(found, key=found.__getitem__)
    if best != shares[-1]:
        _estimate(domain + further[: int(best * len(further))], options, work, vocabulary)
    return {"selected_share_of_further_texts": best}


def _build_mixture(
    texts: Sequence[Sequence[str]],
    corpora: Sequence[Corpus],
    dev: Sequence[str],
    options: argparse.Namespace,
    work: Path,
    vocabulary: Path,
) -> dict[str, Any]:
    """Estimate a model of each text and interpolate them."""
    arpas, models = [], []
    for number, text in enumerate(texts):
        arpa, binary = work / f"part{number}.arpa", work / f"part{number}.bin"
        _estimate_arpa(text, arpa, options, vocabulary)
        write_binary(arpa, binary, 0)
        arpas.append(arpa)
        models.append(NgramModel(binary))
    weights = [corpus.weight for corpus in corpora]
    if options.weights == TUNED:
        weights = tune_weights(models, dev)
    weights = [weight / sum(weights) for weight in weights]
    mix(arpas, weights, work / "lm.arpa")
    write_binary(work / "lm.arpa", work / "lm.bin", options.bits)
    alone = [round(measure_perplexity(model, dev).perplexity, 2) for model in models] if dev else None
    logger.info("weights %s; perplexity of each alone: %s", [round(w, 3) for w in weights], alone)
    return {
        "interpolation": {
            "weights": [round(weight, 4) for weight in weights],
            "tuned": options.weights == TUNED,
            "perplexity_alone": alone,
        }
    }


def _tune(
    development: Development, words: Sequence[str], options: argparse.Namespace, work: Path
) -> dict[str, Any]:
    """Find alpha and beta; writes decoding.json and returns the entry for the card."""
    decoder = CtcBeamDecoder(language_model=work / "lm.bin", unigrams=words, **development.options)
    trials = tune(decoder, development, options.beam_width)
    found = describe(trials, development, options.beam_width)
    best = trials[0]
    fields = {"beam_width": options.beam_width, "lm_alpha": best.lm_alpha, "lm_beta": best.lm_beta}
    figures = {"wer": best.wer, "cer": best.cer, "tuned_on": development.name}
    (options.out / "decoding.json").write_text(json.dumps({**fields, "figures": figures}, indent=2) + "\n")
    return found


def read_sentences(path: Path, normalized: bool = False) -> Iterator[str]:
    """Yield the normalised, non-empty lines of a text, which may be compressed with zstandard."""
    for line in read_text(path):
        sentence = line.strip() if normalized else normalize_text(line)
        if sentence:
            yield sentence


def _read_corpus(corpus: Corpus, options: argparse.Namespace, forbidden: set[str]) -> list[str]:
    """A text's sentences, each as written, then in each of --spoken ways to read it aloud."""
    sentences = list(_with_bar(read_sentences(corpus.path, options.normalized), corpus.path.name))
    if options.spoken and not options.normalized:
        rng = np.random.default_rng(options.seed)
        written = [line for line in read_text(corpus.path) if needs_reading(line)]
        for turn in range(1, options.spoken + 1):
            name = f"{corpus.path.name}, read aloud {turn}/{options.spoken}"
            sentences += [read_aloud(line, rng) for line in _with_bar(written, name)]
    return list(dict.fromkeys(sentence for sentence in sentences if sentence not in forbidden))


def _with_bar(lines: Iterable[str], name: str) -> Iterator[str]:
    """The same lines, counted by a progress bar on a terminal."""
    from tqdm import tqdm

    yield from tqdm(lines, desc=name, unit=" lines", unit_scale=True, disable=None)


def choose_vocabulary(texts: Sequence[Sequence[str]], weights: Sequence[float], size: int) -> list[str]:
    """The `size` words with the highest weighted counts, most frequent first."""
    counts: collections.Counter[str] = collections.Counter()
    for text, weight in zip(texts, weights, strict=True):
        for word, count in collections.Counter(word for s in text for word in s.split()).items():
            counts[word] += count * weight  # type: ignore[assignment]
    return [word for word, _ in counts.most_common(size)]


def sort_by_likeness(domain: Sequence[str], other: Sequence[str], work: Path, memory: str) -> list[str]:
    """Other sentences, sorted: first those most similar to the domain and least similar to the rest."""
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
    if options.weights == TUNED:
        if not options.dev:
            raise OptionError("--weights tuned without --dev", "a text to tune on", "add --dev FILE")
        return [Corpus(Path(path), 1.0) for path in options.text]
    try:
        weights = (
            [float(w) for w in options.weights.split(",")] if options.weights else [1.0] * len(options.text)
        )
    except ValueError:
        got, want = f"--weights {options.weights}", f"numbers such as 4,1, or `{TUNED}`"
        raise OptionError(got, want, "separate them by commas") from None
    if len(weights) != len(options.text):
        got = f"{len(weights)} weights for {len(options.text)} texts"
        raise OptionError(got, "one each", "--weights 4,1 for two texts")
    if min(weights) < 0 or not sum(weights) > 0:
        got = f"--weights {options.weights}"
        raise OptionError(got, "0 or more each, and not only 0", "remove a text instead")
    return [Corpus(Path(path), weight) for path, weight in zip(options.text, weights, strict=True)]


def _estimate(sentences: Sequence[str], options: argparse.Namespace, work: Path, vocabulary: Path) -> None:
    arpa = work / "lm.arpa"
    _estimate_arpa(sentences, arpa, options, vocabulary)
    write_binary(arpa, work / "lm.bin", options.bits)


def _estimate_arpa(
    sentences: Sequence[str], arpa: Path, options: argparse.Namespace, vocabulary: Path
) -> None:
    text = arpa.parent / "text"
    text.write_text("\n".join(sentences) + "\n", encoding="utf-8")
    estimate(text, arpa, options.order, options.prune, vocabulary, options.memory)


def _describe_development(options: argparse.Namespace, binary: Path, dev: Sequence[str]) -> Any:
    if not dev:
        return None
    return {"name": options.dev.name, **asdict(measure_perplexity(NgramModel(binary), dev))}


def _publish(options: argparse.Namespace, corpora: Sequence[Corpus], work: Path, how: dict[str, Any]) -> None:
    """Move the results to their folder and write the card there."""
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
        **how,
        "files": files,
    }
    for name in files:
        shutil.move(work / name, options.out / name)
    (options.out / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(work)
    judged = how["development"]
    logger.info(
        "wrote %s: %s",
        options.out,
        json.dumps(judged) if judged else "not measured, because --dev is not given",
    )

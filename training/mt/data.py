"""Parallel text for translation: reading, weights, tokens, and length-sorted batches."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece as spm
import torch
from numpy.typing import NDArray

from training.common.text_files import TextFileError, read_text
from training.mt.text_augment import ErrorRates, recogniser_style, two_pass_style

logger = logging.getLogger("training")
EOS_ID, UNK_ID = 0, 1
PAD_PIECE = "<pad>"
TARGET, TWO_PASS = 2, 3  # sides of a corpus
JOINED = "joined"  # the origin of pairs made of two
LENGTH_STEP, ROW_STEP = 4, 16  # of batches
ENDS = (".", "!", "?")
MAX_LENGTH_RATIO = 3.0  # pieces of the longer side over pieces of the shorter one, beyond a slack of 6


@dataclass(frozen=True)
class Pair:
    """One sentence pair; origin names the corpus that it came from."""

    source: str
    target: str
    origin: str


@dataclass(frozen=True)
class TokenizedCorpus:
    """Token ids of a corpus, flat, with the offsets of every sentence.

    Attributes:
        tokens: uint16 [n_tokens]; every sentence ends with EOS_ID.
        offsets: int64 [n_sides, n_pairs + 1]; rows: written source, recogniser-style source, target, and
            where it was asked for TWO_PASS, the source as the second pass writes it.
        weights: float32 [n_pairs], how often a pair is drawn in an epoch.
    """

    tokens: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    weights: NDArray[np.float32]

    def sentence(self, side: int, index: int) -> NDArray[np.uint16]:
        """Token ids of one side of one pair."""
        return self.tokens[self.offsets[side, index] : self.offsets[side, index + 1]]

    def lengths(self, side: int) -> NDArray[np.int64]:
        """Number of tokens of every sentence of one side."""
        return np.diff(self.offsets[side])


@dataclass(frozen=True)
class Batch:
    """Padded token ids: source int64 [B, S], target int64 [B, T] (decoder outputs, ending in EOS)."""

    source: torch.Tensor
    target: torch.Tensor


def read_pairs(path: Path) -> list[Pair]:
    """Read `German<TAB>English[<TAB>origin]` lines.

    Raises:
        ValueError: a line without two filled columns; the message names its number.
    """
    pairs = []
    for number, line in enumerate(read_text(path), 1):
        columns = line.split("\t")
        if len(columns) < 2 or not columns[0].strip() or not columns[1].strip():
            raise ValueError(f"{path}:{number}: expected German<TAB>English[<TAB>origin], got {line[:80]!r}")
        pairs.append(Pair(columns[0], columns[1], columns[2] if len(columns) > 2 else path.name))
    return pairs


def read_dev_set(path: Path, limit: int = 0) -> list[tuple[str, str]]:
    """Read `id<TAB>German<TAB>English` lines; a limit takes them evenly spread over the file.

    Raises:
        TextFileError: unreadable, or a line with fewer columns; the message names its number.
    """
    rows = [line.split("\t") for line in read_text(path)]
    for number, row in enumerate(rows, 1):
        if len(row) < 3:
            raise TextFileError(f"{path}:{number}: {len(row)} columns", "id<TAB>German<TAB>English lines")
    step = max(1, len(rows) // limit) if limit else 1
    return [(row[1], row[2]) for row in rows[::step]][: limit or None]


def read_lexicon(path: Path, monolingual: Sequence[Path], max_words: int = 2) -> list[Pair]:
    """Dictionary entries whose every German word occurs in the monolingual text; the first sense only."""
    known: set[str] = set()
    for text in monolingual:
        for line in read_text(text):
            known.update(line.lower().replace(",", " ").replace(".", " ").split())
    seen: set[str] = set()
    entries = []
    for pair in read_pairs(path):
        words = pair.source.lower().split()
        plain = "…" not in pair.source + pair.target and "." not in pair.source + pair.target
        if plain and len(words) <= max_words and pair.source not in seen and known.issuperset(words):
            seen.add(pair.source)
            entries.append(Pair(pair.source, pair.target, "lexicon"))
    return entries


def train_tokenizer(
    pairs: Sequence[Pair], folder: Path, vocab_size: int, seed: int = 0, *,
    byte_fallback: bool = False, fold_case: bool = True,
) -> None:  # fmt: skip
    """Train one SentencePiece vocabulary over both languages and write the Marian tokenizer files.

    Ids: 0 </s>, 1 <unk>, pieces, and <pad> last.

    Args:
        pairs: text to learn from.
        folder: receives source.spm, target.spm and vocab.json.
        vocab_size: including <pad>.
        seed: of the sample that is learned from.
        byte_fallback: whatever no piece covers is spelled in bytes, and each digit is a piece: nothing is
            unknown, and numbers are copied digit by digit.
        fold_case: German is lower-cased by source.spm's own normaliser, so that written text and a
            recogniser's output share their pieces; else names have the same pieces on both sides.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sample = random.Random(seed).sample(list(pairs), min(len(pairs), 400_000))
    text = [p.source.lower() if fold_case else p.source for p in sample] + [p.target for p in sample]
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, vocab_size=vocab_size - 1, model_type="unigram",
        character_coverage=0.9998, eos_id=EOS_ID, unk_id=UNK_ID, bos_id=-1, pad_id=-1, num_threads=1,
        normalization_rule_name="nmt_nfkc", byte_fallback=byte_fallback,
        split_digits=byte_fallback, minloglevel=1,
    )  # fmt: skip
    (folder / "target.spm").write_bytes(model.getvalue())
    source = _case_folded(model.getvalue()) if fold_case else model.getvalue()
    (folder / "source.spm").write_bytes(source)
    processor = spm.SentencePieceProcessor(model_proto=model.getvalue())
    vocabulary = {processor.id_to_piece(i): i for i in range(vocab_size - 1)} | {PAD_PIECE: vocab_size - 1}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False, indent=0), encoding="utf-8")


def _case_folded(model: bytes) -> bytes:
    """The same pieces, with SentencePiece's case-folding normaliser."""
    from sentencepiece import sentencepiece_model_pb2

    new: Any = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]

    probe = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(["ab ab a b", "b a ba"]), model_writer=probe, vocab_size=6,
        hard_vocab_limit=False, normalization_rule_name="nmt_nfkc_cf", minloglevel=2,
    )  # fmt: skip
    folding, proto = new(), new()
    folding.ParseFromString(probe.getvalue())
    proto.ParseFromString(model)
    proto.normalizer_spec.name = folding.normalizer_spec.name
    proto.normalizer_spec.precompiled_charsmap = folding.normalizer_spec.precompiled_charsmap
    return bytes(proto.SerializeToString())


def tokenize_corpus(
    pairs: Sequence[Pair], folder: Path, weights: Mapping[str, float], rates: ErrorRates,
    max_tokens: int, seed: int = 0, two_pass: bool = False, sample_pieces: float = 0.0,
) -> TokenizedCorpus:  # fmt: skip
    """Tokenise both styles of every source and the target; drop pairs that are too long or too unequal.

    Args:
        pairs: sentence pairs.
        folder: where train_tokenizer wrote.
        weights: draws per epoch by origin; 1 where an origin is not named, 0 leaves it out.
        rates: recogniser errors of the second source style.
        max_tokens: of the longer side, EOS included; longer pairs are dropped.
        seed: of the recogniser errors.
        two_pass: also tokenise the sources as the second pass writes them.
        sample_pieces: cut the sources of the other styles into pieces at random, by the probabilities of
            the cuts to this power (Kudo 2018, "Subword Regularization"); 0 takes the best cut.
    """
    rng = random.Random(seed)
    kept = [p for p in pairs if weights.get(p.origin, 1.0) > 0]
    spm.set_random_generator_seed(seed)
    cut: dict[str, Any] = {"enable_sampling": True, "nbest_size": -1, "alpha": sample_pieces}
    cut = cut if sample_pieces else {}
    source = spm.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    target = spm.SentencePieceProcessor(model_file=str(folder / "target.spm"))
    spoken = [recogniser_style(p.source, rng, rates) or p.source for p in kept]
    sides = [
        source.encode([p.source for p in kept]),
        source.encode(spoken, **cut),
        target.encode([p.target for p in kept]),
    ]
    if two_pass:
        sides.append(source.encode([two_pass_style(p.source, rng, rates) for p in kept], **cut))
    rows = [i for i in range(len(kept)) if _usable([len(side[i]) for side in sides], max_tokens)]
    chosen = [[side[i] + [EOS_ID] for i in rows] for side in sides]
    tokens = np.fromiter((t for side in chosen for s in side for t in s), dtype=np.uint16)
    offsets = np.zeros((len(sides), len(rows) + 1), dtype=np.int64)
    start = 0
    for row, side in enumerate(chosen):
        offsets[row] = start + np.concatenate([[0], np.cumsum([len(s) for s in side])])
        start = int(offsets[row, -1])
    drawn = np.array([weights.get(kept[i].origin, 1.0) for i in rows], dtype=np.float32)
    logger.info(
        "%d of %d pairs kept, %d target tokens", len(rows), len(pairs), int(np.diff(offsets[TARGET]).sum())
    )
    return TokenizedCorpus(tokens, offsets, drawn)


def join_pairs(
    pairs: Sequence[Pair], weights: Mapping[str, float], count: int, rng: random.Random
) -> list[Pair]:
    """Pairs of two whole sentences, one after the other: most training sentences are short, and lines that
    hold several would be unlike all that was seen.

    Args:
        pairs: to draw from; sides that do not end in a full stop or the like are not drawn.
        weights: how often, by origin, 1 where it is not named.
        count: of the pairs returned; none where nothing can be drawn.
    """
    whole = [p for p in pairs if p.source.endswith(ENDS) and p.target.endswith(ENDS)]
    if not whole or not count:
        return []
    drawn = rng.choices(whole, [weights.get(p.origin, 1.0) for p in whole], k=2 * count)
    return [
        Pair(f"{a.source} {b.source}", f"{a.target} {b.target}", JOINED)
        for a, b in zip(drawn[::2], drawn[1::2], strict=True)
    ]


def _usable(lengths: Sequence[int], max_tokens: int) -> bool:
    if not all(0 < n < max_tokens for n in lengths):
        return False
    written, target = lengths[0], lengths[TARGET]
    return max(written, target) <= MAX_LENGTH_RATIO * min(written, target) + 6


def cached_corpus(path: Path, key: Sequence[object], build: object) -> TokenizedCorpus:
    """Load the corpus at path when it was built from the same key, else build and store it."""
    digest = hashlib.sha256(repr(key).encode()).hexdigest()
    if path.exists():
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["digest"]) == digest:
                return TokenizedCorpus(stored["tokens"], stored["offsets"], stored["weights"])
    corpus: TokenizedCorpus = build()  # type: ignore[operator]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path, tokens=corpus.tokens, offsets=corpus.offsets, weights=corpus.weights, digest=np.array(digest)
    )
    return corpus


def epoch_batches(
    corpus: TokenizedCorpus,
    epoch: int,
    *,
    batch_tokens: int,
    spoken_share: float,
    seed: int,
    two_pass_share: float = 0.0,
) -> list[tuple[NDArray[np.int64], NDArray[np.int8]]]:
    """Plan one epoch: which pairs, in which source style, in which batch.

    Args:
        corpus: tokenised pairs.
        epoch: the plan depends only on it and on the seed, so a run can resume anywhere.
        batch_tokens: upper bound of padded source + target tokens of a batch, lengths rounded up.
        spoken_share: share of sources taken in recogniser style.
        two_pass_share: share taken as the second pass writes; the corpus must hold that side.
    Returns:
        Shuffled batches of (pair indices, source side of each).
    """
    rng = np.random.default_rng((seed, epoch))
    whole, part = np.divmod(corpus.weights, 1.0)
    counts = whole.astype(np.int64) + (rng.random(len(part)) < part)
    rows = np.repeat(np.arange(len(counts)), counts)
    drawn = rng.random(len(rows))
    side = (drawn < spoken_share).astype(np.int8)
    if two_pass_share:
        side[(drawn >= spoken_share) & (drawn < spoken_share + two_pass_share)] = TWO_PASS
    lengths = np.diff(corpus.offsets, axis=1)
    source, target = round_up(lengths[side, rows]), round_up(lengths[TARGET, rows])
    order = np.lexsort((rng.random(len(rows)), source, target))
    cuts = _cuts(source[order], target[order], batch_tokens)
    batches = [(rows[chosen], side[chosen]) for chosen in np.split(order, cuts)]
    return [batches[i] for i in rng.permutation(len(batches))]


def round_up(lengths: Any) -> Any:
    """Lengths as they are padded."""
    return -(-lengths // LENGTH_STEP) * LENGTH_STEP


def _cuts(source: NDArray[np.int64], target: NDArray[np.int64], batch_tokens: int) -> list[int]:
    """Where batches begin, but for the first; lengths are those of the pairs in their order.

    A batch holds as many pairs as fit, a multiple of ROW_STEP where it can: products of few shapes.
    """
    cuts, start = [], 0
    while start < len(source):
        most = max(1, batch_tokens // int(source[start] + target[start]))
        longest = np.maximum.accumulate(source[start : start + most])
        longest = longest + np.maximum.accumulate(target[start : start + most])
        fitting = np.arange(1, len(longest) + 1) * longest <= batch_tokens
        count = int(np.flatnonzero(fitting)[-1]) + 1 if fitting.any() else 1
        if start + count < len(source):
            count = count // ROW_STEP * ROW_STEP or count
        start += count
        cuts.append(start)
    return cuts[:-1]


def collate(corpus: TokenizedCorpus, rows: NDArray[np.int64], sides: NDArray[np.int8], pad_id: int) -> Batch:
    """Pad the pairs of one planned batch to its longest sentences, rounded up to LENGTH_STEP."""
    sources = [corpus.sentence(int(side), int(row)) for row, side in zip(rows, sides, strict=True)]
    targets = [corpus.sentence(TARGET, int(row)) for row in rows]
    return Batch(_pad(sources, pad_id), _pad(targets, pad_id))


def _pad(sentences: Sequence[NDArray[np.uint16]], pad_id: int) -> torch.Tensor:
    padded = np.full((len(sentences), int(round_up(max(map(len, sentences))))), pad_id, dtype=np.int64)
    for row, sentence in enumerate(sentences):
        padded[row, : len(sentence)] = sentence
    return torch.from_numpy(padded)

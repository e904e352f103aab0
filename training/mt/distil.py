"""`engine-train mt-distil`: a corpus with the English of a large model, for a small one to learn."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from engine.output.targets import check_apart
from engine.translation.quantities import missing_numbers
from engine.translation.translator import longest_run
from training.common.text_files import read_text
from training.mt.data import EOS_ID, Pair, read_pairs

logger = logging.getLogger("training")
MAX_SOURCE, MAX_TARGET = 120, 160  # pieces
MAX_RATIO, SLACK = 2.0, 4  # words of a translation for those of the corpus' own


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `training mt-distil`."""
    parser.add_argument("--teacher", required=True, help="a checkpoint folder of `mt`, or a hub name")
    parser.add_argument(
        "--data", required=True, type=Path, help="German, English and source, as mt-data writes"
    )
    parser.add_argument("--out", required=True, type=Path, help="the same with the teacher's English (.tsv)")
    parser.add_argument("--beams", type=int, default=4, help="1 is greedy (4)")
    parser.add_argument("--batch_tokens", type=int, default=16_000, help="padded source pieces of a batch")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long; 0: at the end")


def run(args: argparse.Namespace) -> int:
    """Translate what is not translated yet; 0, or 1 with a message in the log."""
    try:
        distil(args.teacher, args.data, args.out, args.beams, args.batch_tokens, args.minutes)
    except (ValueError, OSError) as error:
        logger.error("%s", error)
        return 1
    return 0


def distil(teacher: str, data: Path, out: Path, beams: int, batch_tokens: int, minutes: float) -> int:
    """Append translations to out, in an order that depends on the data alone, so that a run can go on.

    A translation that lacks a number of its source, repeats itself or is far longer or shorter than the
    corpus' own is replaced by that one.

    Returns:
        How many pairs out holds.
    Raises:
        ValueError: no such checkpoint, or an out of another corpus.
    """
    from training.mt.command import checkpoint_folder

    check_apart([out], [data])
    pairs = sorted(read_pairs(data), key=lambda pair: (len(pair.source), pair.source))
    done = _count_done(out, pairs)
    translate = _Teacher(checkpoint_folder(teacher), beams)
    out.parent.mkdir(parents=True, exist_ok=True)
    started, kept = time.monotonic(), 0
    with out.open("a", encoding="utf-8", newline="\n") as file:
        for batch in translate.batches(pairs[done:], batch_tokens):
            for pair, english in zip(batch, translate(batch), strict=True):
                chosen = choose(pair, english)
                kept += chosen is not pair.target
                file.write(f"{pair.source}\t{chosen}\t{pair.origin}\n")
            done += len(batch)
            file.flush()
            if minutes and time.monotonic() - started > 60 * minutes:
                break
    logger.info("%d of %d pairs in %s, %d by the teacher in this run", done, len(pairs), out, kept)
    return done


def choose(pair: Pair, english: str) -> str:
    """The teacher's English, or the corpus' own where the teacher's is unfaithful."""
    text = " ".join(english.split())
    own, new = len(pair.target.split()), len(text.split())
    if not new or max(own, new) > MAX_RATIO * min(own, new) + SLACK:
        return pair.target
    if longest_run(text) > max(2, longest_run(pair.target)):
        return pair.target
    lost = [number for number in missing_numbers(pair.source, text) if number.firm]
    return pair.target if lost else text


def _count_done(out: Path, pairs: Sequence[Pair]) -> int:
    """Whole lines of an earlier run; a line that was cut off is removed."""
    if not out.exists():
        return 0
    content = out.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        out.write_bytes(whole)
    lines = list(read_text(out))
    if len(lines) > len(pairs) or any(
        line.split("\t")[0] != pair.source for line, pair in zip(lines, pairs, strict=False)
    ):
        raise ValueError(f"{out} is of another corpus; remove it, or choose another --out")
    return len(lines)


class _Teacher:
    """A Marian checkpoint, on the GPU in bfloat16 where there is one."""

    def __init__(self, folder: Path, beams: int) -> None:
        import sentencepiece as spm
        import torch
        from transformers import MarianMTModel

        cuda = torch.cuda.is_available()
        self._torch, self._beams = torch, beams
        self._device = torch.device("cuda" if cuda else "cpu")
        dtype = torch.bfloat16 if cuda else torch.float32
        self._model: Any = MarianMTModel.from_pretrained(folder, dtype=dtype).to(self._device).eval()
        self._source = spm.SentencePieceProcessor(model_file=str(folder / "source.spm"))
        self._target = spm.SentencePieceProcessor(model_file=str(folder / "target.spm"))

    def batches(self, pairs: Sequence[Pair], batch_tokens: int) -> Iterator[list[Pair]]:
        """Neighbours, which are of about the same length."""
        held: list[Pair] = []
        longest = 0
        for pair in pairs:
            size = min(MAX_SOURCE, len(pair.source) // 2 + 2)
            if held and max(longest, size) * (len(held) + 1) > batch_tokens:
                yield held
                held, longest = [], 0
            held.append(pair)
            longest = max(longest, size)
        if held:
            yield held

    def __call__(self, pairs: Sequence[Pair]) -> list[str]:
        """English of each."""
        torch, pad_id = self._torch, self._model.config.pad_token_id
        encoded = [[*ids[:MAX_SOURCE], EOS_ID] for ids in self._source.encode([p.source for p in pairs])]
        width = max(map(len, encoded))
        ids = torch.tensor([row + [pad_id] * (width - len(row)) for row in encoded], device=self._device)
        with torch.inference_mode():
            found = self._model.generate(
                input_ids=ids, attention_mask=(ids != pad_id).long(), num_beams=self._beams, do_sample=False,
                max_new_tokens=min(2 * width + 10, MAX_TARGET), bad_words_ids=[[pad_id]],
            )  # fmt: skip
        left_out = {pad_id, EOS_ID}
        return [self._target.decode([t for t in row if t not in left_out]) for row in found.tolist()]

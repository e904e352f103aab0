"""Both sides' answers compared: what was compared, what was found, and the limit that it must keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.interop import ours
from engine.acoustic.model import compute_log_softmax
from engine.decoding import build_ctcdecoder

LOGITS_LIMIT = 1e-4  # relative L2: the same graph, or the same weights in float32
SCORE_LIMIT = 0.03  # natural log of a whole utterance, see tests/parity/test_decoding_pyctcdecode.py
KENLM_LIMIT = 1e-4  # log10 of one word: what float32 leaves
N_BEST_SHARE = 0.97  # sums over other pruned alignments may swap two close ones
NEAR_FRAMES, NEAR_SHARE = 1.0, 0.9  # of two alignments with one text, each keeps another at times
NARROW_SHARE = 0.98  # with eight beams, which differ at the edge


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        found: the figure; limit: what it must keep; None where nothing is required.
        at_most: whether the limit is from above.
        n: things compared.
    """

    part: str
    what: str
    found: float
    limit: float | None
    at_most: bool
    n: int

    @property
    def agrees(self) -> bool:
        """Whether the limit is kept."""
        if self.limit is None:
            return True
        return bool(self.found <= self.limit if self.at_most else self.found >= self.limit)

    def as_json(self) -> dict[str, Any]:
        """For the result file."""
        return asdict(self) | {"agrees": self.agrees}


def share(part: str, what: str, pairs: Iterable[tuple[Any, Any]], limit: float | None = 1.0) -> Row:
    """How many pairs are equal, as a share."""
    equal = [a == b for a, b in pairs]
    return Row(part, what, round(sum(equal) / max(len(equal), 1), 4), limit, False, len(equal))


def largest(part: str, what: str, values: Iterable[float], limit: float) -> Row:
    """The largest of several differences; of none it is infinite, which no limit allows."""
    found = list(values)
    return Row(part, what, float(f"{max(found, default=float('inf')):.3g}"), limit, True, len(found))


def compare_models(folder: Path, cases: Mapping[str, Any], answers: Mapping[str, Any]) -> list[Row]:
    """Every checkpoint, by the exported folder and by engine-export's graph."""
    rows, waveforms = [], dict(np.load(folder / "waveforms.npz"))
    for name, settings in cases["models"].items():
        theirs = dict(np.load(folder / "models" / f"{name}.npz"))
        exported, greedy = folder / "models" / name / "onnx", answers[name]["greedy"]
        rows += compare_exported(f"model {name}", exported, settings, waveforms, theirs, greedy)
        built = ours.run_checkpoint(folder / "models" / name / "checkpoint", waveforms)
        errors = [relative(built[clip], compute_log_softmax(theirs[clip])) for clip in waveforms]
        what = "engine-export's float32 graph: log probs, rel. L2"
        rows.append(largest(f"model {name}", what, errors, LOGITS_LIMIT))
    return rows


def compare_exported(
    part: str, folder: Path, settings: Any, waveforms: Any, theirs: Any, greedy: Mapping[str, str]
) -> list[Row]:
    """A folder that optimum-cli wrote, in the engine as it is, against transformers.

    Args:
        settings: labels and word_delimiter.
        waveforms: by clip. theirs: logits by clip. greedy: texts of the tokenizer by clip.
    """
    exported = ours.run_folder(folder, waveforms)
    errors = [relative(exported[clip][0], compute_log_softmax(theirs[clip])) for clip in waveforms]
    read = {
        clip: ours.read_greedy(theirs[clip], settings["labels"], settings["word_delimiter"])
        for clip in waveforms
    }
    return [
        largest(part, "folder of optimum-cli: log probs, rel. L2", errors, LOGITS_LIMIT),
        share(part, "greedy text of the same logits", [(read[c], normal(greedy[c])) for c in waveforms]),
        share(part, "greedy text from the waveform", [(exported[c][1], read[c]) for c in waveforms]),
    ]


def relative(got: Any, wanted: Any) -> float:
    """Relative L2 distance; infinite for other shapes."""
    if got.shape != wanted.shape:
        return float("inf")
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def normal(text: str) -> str:
    """With single spaces; pieces' marks are spaces."""
    return " ".join(text.replace("▁", " ").split())


def compare_decoding(folder: Path, cases: Mapping[str, Any], answers: Mapping[str, Any]) -> list[Row]:
    """Beams of every case; other peers and the default merging are stated without a limit."""
    rows: list[Row] = []
    for name, case in cases["decoding"].items():
        theirs, peers = answers[name]["pyctcdecode"], answers[name]["peers"]
        beams = ours.decode_case(folder, case, "pyctcdecode")
        rows += compare_beams(name, beams, theirs, NARROW_SHARE if "narrow" in name else 1.0)
        best = [each[0][0] for each in theirs]
        default = zip(ours.decode_default(folder, case), best, strict=True)
        rows.append(share(name, "best text, CtcBeamDecoder with its own rules", default, None))
        for peer, texts in peers.items():
            if isinstance(texts, list):
                pairs = zip(texts, best, strict=True)
                rows.append(share(name, f"best text, {peer} with pyctcdecode", pairs, None))
    return rows


def compare_beams(name: str, beams: Sequence[Any], theirs: Sequence[Any], texts_limit: float) -> list[Row]:
    """Texts, n-best lists, scores and word frames; the last two where the texts are one."""
    pairs = list(zip(beams, theirs, strict=True))
    same = [(a[0], b[0]) for a, b in pairs if a[0][0] == b[0][0]]
    n_best = ([beam[0] for beam in a] == [beam[0] for beam in b] for a, b in pairs)
    n_best_limit = min(N_BEST_SHARE, texts_limit)
    return [
        share(name, "best text", ((a[0][0], b[0][0]) for a, b in pairs), texts_limit),
        share(name, "ten best texts", ((equal, True) for equal in n_best), n_best_limit),
        largest(name, "logit_score, natural log", (abs(a[2] - b[2]) for a, b in same), SCORE_LIMIT),
        largest(name, "lm_score, natural log", (abs(a[3] - b[3]) for a, b in same), SCORE_LIMIT),
        share(
            name,
            "words of text_frames",
            (([w[0] for w in a[1]], [w[0] for w in b[1]]) for a, b in same),
        ),
        share(name, "borders of words within one frame", near_frames(same), NEAR_SHARE),
    ]


def near_frames(pairs: Iterable[tuple[Any, Any]]) -> list[tuple[bool, bool]]:
    """Whether beginnings and ends of words are near each other, for pairs of beams with the same text."""
    found: list[tuple[bool, bool]] = []
    for a, b in pairs:
        for (word, *frames), (other, *wanted) in zip(a[1], b[1], strict=False):
            if word == other:
                found += [(abs(x - y) <= NEAR_FRAMES, True) for x, y in zip(frames, wanted, strict=True)]
    return found


def compare_processor(folder: Path, cases: Mapping[str, Any], rows_of_theirs: Sequence[Any]) -> list[Row]:
    """Wav2Vec2ProcessorWithLM against our beams on the same logits."""
    case = cases["processor"]
    logits = np.load(folder / "models" / f"{case['model']}.npz")
    words = (folder / case["words"]).read_text(encoding="utf-8").split()
    decoder = build_ctcdecoder(
        cases["models"][case["model"]]["labels"],
        folder / case["language_model"],
        words,
        merging="pyctcdecode",
    )
    found = [decoder.decode_beams(logits[clip], beam_width=64)[0] for clip, *_ in rows_of_theirs]
    beams = [[[b.text, [[w, *f] for w, f in b.text_frames], b.logit_score, b.lm_score]] for b in found]
    theirs = [[[text, offsets, acoustic, score]] for _, text, offsets, acoustic, score in rows_of_theirs]
    pairs = [(a[0], b[0]) for a, b in zip(beams, theirs, strict=True)]
    same = [(a, b) for a, b in pairs if a[0] == b[0]]
    near = [(a[0] == b[0] or abs(a[3] - b[3]) <= SCORE_LIMIT, True) for a, b in pairs]
    part = "transformers' ProcessorWithLM"
    return [
        share(part, "best text, or another with the same score", near),
        largest(part, "logit_score, natural log", (abs(a[2] - b[2]) for a, b in same), SCORE_LIMIT),
        largest(part, "lm_score, natural log", (abs(a[3] - b[3]) for a, b in same), SCORE_LIMIT),
        share(part, "borders of words within one frame, random weights", near_frames(same), None),
    ]


def compare_kenlm(folder: Path, cases: Mapping[str, Any], answers: Mapping[str, Any]) -> list[Row]:
    """log10 scores of every word, of every file."""
    rows, case = [], cases["kenlm"]
    for name, path in case["models"].items():
        scores = ours.score_sentences(folder / path, case["sentences"])
        theirs = [[score for score, _ in sentence] for sentence in answers[name]["scores"]]
        differences = (
            abs(a - b) for x, y in zip(scores, theirs, strict=True) for a, b in zip(x, y, strict=True)
        )
        rows.append(largest(f"KenLM {name}", "log10 of a word", differences, KENLM_LIMIT))
    return rows


def compare_beside(beside: Mapping[str, Any], rows_of_theirs: Sequence[Any]) -> list[Row]:
    """pyctcdecode's decoder inside the engine against pyctcdecode in its own environment."""
    wanted = {clip: text for clip, text, *_ in rows_of_theirs}
    pairs = [(answer["decoded"], wanted[clip]) for clip, answer in beside.items()]
    heard = [
        (normal(answer["text"]).lower(), normal(wanted[clip]).lower()) for clip, answer in beside.items()
    ]
    part = "pyctcdecode inside the engine"
    return [share(part, "text of decode", pairs), share(part, "text of transcribe", heard)]

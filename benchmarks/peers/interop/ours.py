"""What the engine makes of the cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import engine
from engine.acoustic.model import compute_log_softmax
from engine.decoding import CtcBeamDecoder, NgramModel, build_ctcdecoder, decode_greedy

N_BEST = 10
GREEDY = engine.DecodingOptions(vad_filter=False, beam_width=1)


def old_labels(labels: Sequence[str]) -> list[str]:
    """As pyctcdecode writes the blank and the space."""
    return ["" if label == "<pad>" else " " if label == "|" else label for label in labels]


def load_emissions(folder: Path, case: Mapping[str, Any]) -> list[NDArray[np.float32]]:
    """The logits of a case, [n_frames, vocab_size] each."""
    return [array for _, array in sorted(np.load(folder / case["logits"]).items())]


def decode_case(folder: Path, case: Mapping[str, Any], merging: str) -> list[Any]:
    """The ten best of each utterance: text, word frames, acoustic score, score."""
    model = folder / case["language_model"] if case["language_model"] else None
    words = (folder / case["words"]).read_text(encoding="utf-8").split() if model else None
    decoder = build_ctcdecoder(old_labels(case["labels"]), model, words, merging=merging)
    return [
        [
            [
                beam.text,
                [[word, *frames] for word, frames in beam.text_frames],
                beam.logit_score,
                beam.lm_score,
            ]
            for beam in decoder.decode_beams(logits, **case["options"])[:N_BEST]
        ]
        for logits in load_emissions(folder, case)
    ]


def decode_default(folder: Path, case: Mapping[str, Any]) -> list[str]:
    """Best texts of CtcBeamDecoder as a program uses it: its own merging and, for letters, lookahead."""
    model = folder / case["language_model"] if case["language_model"] else None
    words = (folder / case["words"]).read_text(encoding="utf-8").split() if model else None
    options = dict(case["options"])
    settings = {key: options.pop(key) for key in ("beam_prune_logp",) if key in options}
    decoder = CtcBeamDecoder(case["labels"], model, words, **settings)
    return [decoder.decode(each, logits=True, **options)[0].text for each in load_emissions(folder, case)]


def run_folder(folder: Path, waveforms: Mapping[str, NDArray[np.float32]]) -> dict[str, Any]:
    """A folder that optimum-cli wrote, as it is: log probabilities and greedy texts by clip."""
    model = engine.load(str(folder), device="cpu", threads=1)
    return {
        clip: (
            model.compute_log_probs(model.compute_features(waveform)),
            model.transcribe(waveform, options=GREEDY).text,
        )
        for clip, waveform in waveforms.items()
    }


def run_checkpoint(folder: Path, waveforms: Mapping[str, NDArray[np.float32]]) -> dict[str, Any]:
    """The graph that engine-export builds of the checkpoint, in float32: log probabilities by clip."""
    from export.acoustic.pretrained import load_pretrained
    from export.verification.audio_cases import features_of
    from export.verification.verify import onnx_run

    source = load_pretrained(str(folder))
    run = onnx_run(source.build(lambda block: "float32", None)[0])
    return {
        clip: compute_log_softmax(run(features_of(waveform, source.config)[None])[0])
        for clip, waveform in waveforms.items()
    }


def read_greedy(logits: NDArray[np.float32], labels: Sequence[str], delimiter: str) -> str:
    """Greedy text of the same logits."""
    return decode_greedy(logits, labels, word_delimiter=delimiter, logits=True).text


def score_sentences(path: Path, sentences: Sequence[str]) -> list[list[float]]:
    """log10 of every word, with <s> and </s>, by our reader."""
    model = NgramModel(path)
    return [[float(score) for score in model.score_words(sentence.split())] for sentence in sentences]

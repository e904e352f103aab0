"""Tuning of alpha and beta: what it reads, that it finds the better values, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.decoding import CtcBeamDecoder
from engine.text import VOCABULARY
from training.lm.decoder_tuning import TuningError, describe, load_development, tune

FIXTURES = Path(__file__).resolve().parents[1] / "data" / "decoder"
TEXTS = ("der zug liegt auf dem sofa", "das sofa liegt auf dem zug")


def save_emissions(path: Path, **more: object) -> Path:
    """Emissions that spell TEXTS with every space as likely as a letter that makes no word."""
    rows = []
    for text in TEXTS:
        for char in text.replace(" ", "|"):
            row = np.full(len(VOCABULARY), -9.0, np.float32)
            row[VOCABULARY.index(char)] = -0.7
            if char == "|":
                row[VOCABULARY.index("x")] = -0.69
            blank = np.full(len(VOCABULARY), -9.0, np.float32)
            blank[0] = -0.01
            rows += [row, blank]
    offsets = np.cumsum([0, *(2 * len(text) for text in TEXTS)])
    arrays = {"lp": np.stack(rows), "off": offsets, "labels": json.dumps(VOCABULARY), **more}
    np.savez(path, **arrays)
    return path


def test_the_best_trial_reads_the_texts(tmp_path):
    development = load_development(save_emissions(tmp_path / "e.npz", texts=json.dumps(TEXTS)), None)
    assert [len(e) for e in development.emissions] == [2 * len(text) for text in TEXTS]
    decoder = CtcBeamDecoder(language_model=FIXTURES / "tiny.probing.bin", **development.options)
    trials = tune(decoder, development, 16)
    assert trials[0].wer == 0.0 and trials[-1].wer >= trials[0].wer
    card = describe(trials, development, 16)
    assert card["utterances"] == 2 and card["best"]["wer"] == 0.0 and card["trials"] == len(trials)


def test_references_come_from_a_manifest(tmp_path):
    emissions = save_emissions(tmp_path / "e.npz")
    manifest = tmp_path / "dev.tsv"
    manifest.write_text(
        "path\ttext_de\na.wav\tDer Zug liegt auf dem Sofa.\nb.wav\tDas Sofa liegt auf dem Zug.\n"
    )
    written = load_development(emissions, manifest).references
    assert tuple(written) == ("Der Zug liegt auf dem Sofa.", "Das Sofa liegt auf dem Zug.")


@pytest.mark.parametrize("texts", [None, ("der zug",)])
def test_missing_references_are_an_error(tmp_path, texts):
    more = {} if texts is None else {"texts": json.dumps(texts)}
    with pytest.raises(TuningError, match="references for 2 utterances"):
        load_development(save_emissions(tmp_path / "e.npz", **more), None)


def test_other_arrays_are_an_error(tmp_path):
    np.savez(tmp_path / "e.npz", lp=np.zeros((2, 3)))
    with pytest.raises(TuningError, match="lacks off, labels"):
        load_development(tmp_path / "e.npz", None)


def test_a_bundle_needs_a_manifest(tmp_path):
    with pytest.raises(TuningError, match="tune-manifest"):
        load_development(tmp_path, None)

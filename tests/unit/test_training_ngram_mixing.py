"""Interpolated n-gram models: sums to one, equals the definition, weights that raise the likelihood."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from engine.decoding.ngram import NgramModel
from training.lm.ngram_mixing import Arpa, MixingError, mix, tune_weights

WORDS = ("der", "zug", "hund", "kommt")


def write_arpa(path, seed: int, words=WORDS, share: float = 0.5) -> None:
    """A trigram model whose contexts each sum to 1."""
    rng = np.random.default_rng(seed)
    predicted = ("<unk>", "</s>", *words)
    unigrams = dict(zip(predicted, rng.dirichlet(np.ones(len(predicted))), strict=True))
    probs = [unigrams | {"<s>": 1.0}, {}, {}]
    backoffs = [{}, {}]
    for order in (1, 2):
        for context in [g for g in probs[order - 1] if not g.endswith("</s>") and "<unk>" not in g]:
            chosen = [w for w in predicted[1:] if rng.random() < share]
            if not chosen:
                continue
            mass = rng.uniform(0.3, 0.8) * rng.dirichlet(np.ones(len(chosen)))
            rest = 1.0 - sum(look_up(f"{context} {w}".partition(" ")[2], probs, backoffs) for w in chosen)
            probs[order] |= {f"{context} {w}": p for w, p in zip(chosen, mass, strict=True)}
            backoffs[order - 1][context] = (1.0 - mass.sum()) / rest
    lines = ["\\data\\", *(f"ngram {n}={len(p)}" for n, p in enumerate(probs, 1))]
    for order, grams in enumerate(probs, 1):
        lines.append(f"\n\\{order}-grams:")
        for gram, prob in grams.items():
            tail = f"\t{np.log10(backoffs[order - 1].get(gram, 1.0)):.9f}" if order < 3 else ""
            lines.append(f"{np.log10(prob) if gram != '<s>' else -99:.9f}\t{gram}{tail}")
    path.write_text("\n".join([*lines, "", "\\end\\", ""]))


def look_up(gram: str, probs, backoffs) -> float:
    order = gram.count(" ")
    if gram in probs[order]:
        return probs[order][gram]
    context, shorter = gram.rpartition(" ")[0], gram.partition(" ")[2]
    return backoffs[order - 1].get(context, 1.0) * look_up(shorter, probs, backoffs)


@pytest.fixture
def mixed(tmp_path):
    paths = [tmp_path / name for name in ("a.arpa", "b.arpa", "mixed.arpa")]
    write_arpa(paths[0], 1)
    write_arpa(paths[1], 2, words=WORDS[:3])
    mix(paths[:2], [3.0, 1.0], paths[2])
    return paths


def test_every_context_of_a_mixture_sums_to_one(mixed):
    arpa = Arpa(mixed[2])
    contexts = ["", *WORDS, *(f"{a} {b}" for a, b in itertools.product(("<s>", *WORDS), WORDS))]
    for context in contexts:
        total = sum(arpa.compute_probability(f"{context} {w}".strip()) for w in ("<unk>", "</s>", *WORDS))
        assert total == pytest.approx(1.0, abs=1e-4), context


def test_held_ngrams_have_the_weighted_probability(mixed):
    first, second, both = (Arpa(path) for path in mixed)
    grams = [gram for order in both.orders for gram in order if gram != "<s>"]
    assert len(grams) > len([g for order in first.orders for g in order]) - 1
    for gram in grams:
        wanted = 0.75 * first.compute_probability(gram) + 0.25 * second.compute_probability(gram)
        assert both.compute_probability(gram) == pytest.approx(wanted, rel=1e-4)


def test_a_mixture_is_a_model_that_the_decoder_reads(mixed):
    model, arpa = NgramModel(mixed[2]), Arpa(mixed[2])
    words = ["der", "hund", "kommt"]
    padded = ["<s>", *words, "</s>"]
    wanted = [arpa.compute_probability(" ".join(padded[max(0, i - 2) : i + 1])) for i in range(1, 5)]
    np.testing.assert_allclose(10.0 ** model.score_words(words), wanted, rtol=1e-4)


def test_tuned_weights_are_the_likeliest(mixed):
    models = [NgramModel(path) for path in mixed[:2]]
    sentences = ["der zug", "der hund der hund", "zug zug zug", "hund"]
    weights = tune_weights(models, sentences)
    assert sum(weights) == pytest.approx(1.0)

    def likelihood(weight: float) -> float:
        scores = [10.0 ** np.concatenate([m.score_words(s.split()) for s in sentences]) for m in models]
        return float(np.log(weight * scores[0] + (1 - weight) * scores[1]).sum())

    best = max(np.linspace(0.0, 1.0, 1001), key=likelihood)
    assert weights[0] == pytest.approx(best, abs=2e-3)


def test_one_model_alone_stays_what_it_is(tmp_path):
    write_arpa(tmp_path / "a.arpa", 3)
    mix([tmp_path / "a.arpa"], [1.0], tmp_path / "same.arpa")
    first, same = Arpa(tmp_path / "a.arpa"), Arpa(tmp_path / "same.arpa")
    for gram in ("der", "der zug", "der zug hund", "hund hund hund", "kommt </s>"):
        assert same.compute_probability(gram) == pytest.approx(first.compute_probability(gram), rel=1e-4)


@pytest.mark.parametrize("weights", [[1.0], [-1.0, 2.0], [0.0, 0.0]])
def test_weights_that_cannot_be_used_are_named(mixed, weights):
    with pytest.raises(MixingError, match="want one for each"):
        mix(mixed[:2], weights, mixed[2])


def test_a_development_text_of_unknown_words_is_an_error(mixed):
    with pytest.raises(MixingError, match="one known word"):
        tune_weights([NgramModel(mixed[0])], [])

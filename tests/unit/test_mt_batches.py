"""What translation training draws and computes with: joined pairs, random pieces, shapes, dropout, bf16."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
spm = pytest.importorskip("sentencepiece")

from tests.reference.tiny_marian import checkpoint, text_pairs  # noqa: E402
from training.mt import data as mt_data  # noqa: E402
from training.mt.model import (  # noqa: E402
    CANDIDATE_STEP,
    LOSS_CHUNK,
    FastMarian,
    drop,
    from_marian,
    sample_vocabulary,
)
from training.mt.text_augment import ErrorRates  # noqa: E402

PAIRS = [
    mt_data.Pair("Das ist gut.", "That is good.", "a"), mt_data.Pair("Haus", "house", "a"),
    mt_data.Pair("Wirklich?", "Really?", "b"), mt_data.Pair("Nie!", "Never!", "c"),
]  # fmt: skip


def random_model(dropout: float = 0.0) -> FastMarian:
    from transformers import MarianMTModel

    model = from_marian(MarianMTModel.from_pretrained(checkpoint("relu", seed=5)))
    model.set_dropout(dropout)
    return model


def random_batch(rows: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    source, target = torch.randint(2, 200, (rows, 12)), torch.randint(2, 200, (rows, 8))
    target[:, -1] = 0
    return source, target


def test_joined_pairs_are_of_whole_sentences_by_weight() -> None:
    joined = mt_data.join_pairs(PAIRS, {"c": 0.0}, 200, random.Random(0))
    assert len(joined) == 200 and {pair.origin for pair in joined} == {mt_data.JOINED}
    sources = " ".join(pair.source for pair in joined)
    assert "Haus" not in sources and "Nie!" not in sources
    assert mt_data.Pair("Das ist gut. Wirklich?", "That is good. Really?", mt_data.JOINED) in joined
    assert mt_data.join_pairs(PAIRS[1:2], {}, 5, random.Random(0)) == []
    assert mt_data.join_pairs(PAIRS, {}, 0, random.Random(0)) == []


def test_random_pieces_spell_the_same_text_and_leave_written_sources_alone() -> None:
    folder, pairs = checkpoint(), [mt_data.Pair(*pair, "x") for pair in text_pairs()[:200]]
    none = ErrorRates(0.0, 0.0, 0.0, 0.0, 0.0)
    best, cut = (
        mt_data.tokenize_corpus(pairs, folder, {}, none, 90, two_pass=True, sample_pieces=power)
        for power in (0.0, 0.3)
    )
    reader = spm.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    assert len(best.weights) == len(cut.weights) == 200
    different = 0
    for side in (0, 1, mt_data.TARGET, mt_data.TWO_PASS):
        for row in range(len(best.weights)):
            a, b = best.sentence(side, row).tolist()[:-1], cut.sentence(side, row).tolist()[:-1]
            assert reader.decode(a) == reader.decode(b)
            different += a != b
            assert side in (1, mt_data.TWO_PASS) or a == b
    assert different > 100


@given(st.data())
def test_batches_hold_every_pair_once_and_no_more_than_fits(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 120))
    lengths = st.integers(1, 60)
    source = data.draw(st.lists(lengths, min_size=n, max_size=n))
    target = data.draw(st.lists(lengths, min_size=n, max_size=n))
    limit = data.draw(st.integers(16, 4000))
    offsets = np.stack([np.cumsum([0, *source]), np.cumsum([0, *source]), np.cumsum([0, *target])])
    corpus = mt_data.TokenizedCorpus(np.ones(9999, np.uint16), offsets, np.ones(n, np.float32))
    plan = mt_data.epoch_batches(corpus, 0, batch_tokens=limit, spoken_share=0.5, seed=0)
    assert sorted(row for rows, _ in plan for row in rows.tolist()) == list(range(n))
    up = [-(-np.array(side) // 4) * 4 for side in (source, target)]
    for rows, sides in plan:
        longest = up[0][rows].max() + up[1][rows].max()
        assert len(rows) == 1 or len(rows) * longest <= limit
        batch = mt_data.collate(corpus, rows, sides, pad_id=3)
        assert batch.source.shape == (len(rows), up[0][rows].max())
        assert batch.target.shape == (len(rows), up[1][rows].max())


def test_batches_have_few_shapes() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 25, (2, 20_000))
    offsets = np.stack([np.cumsum([0, *lengths[i]]) for i in (0, 0, 1)])
    corpus = mt_data.TokenizedCorpus(np.ones(1, np.uint16), offsets, np.ones(20_000, np.float32))
    plan = mt_data.epoch_batches(corpus, 0, batch_tokens=3000, spoken_share=0.0, seed=0)
    shapes = {
        (len(rows), *(int(mt_data.round_up(lengths[i][rows].max())) for i in (0, 1))) for rows, _ in plan
    }
    assert len(plan) > 150 and len(shapes) < len(plan) / 3
    full = [rows for rows, _ in plan if len(rows) % mt_data.ROW_STEP == 0]
    assert len(full) >= len(plan) - 1


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(37, 113, requires_grad=True)
    y = drop(x, 0.25)
    assert sorted(set(y.flatten().tolist())) == [0.0, pytest.approx(4 / 3)]
    assert float((y == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())
    assert drop(x, 0.0) is x


def test_dropout_is_for_training_alone() -> None:
    source, target = random_batch()
    plain, dropping = random_model(), random_model(0.2)
    with torch.no_grad():
        wanted, trained = float(plain(source, target)[0]), float(dropping(source, target)[0])
        assert trained != pytest.approx(wanted, rel=1e-4)
        assert float(dropping.eval()(source, target)[0]) == pytest.approx(wanted, rel=1e-6)


def test_a_copy_in_bfloat16_has_the_gradients_of_float32() -> None:
    model, (source, target) = random_model(), random_batch(40)
    source[:, :4] = 7  # a frequent token: its gradient is a sum of many
    copy = model.in_bfloat16()
    losses = [part(source, target, 0.1)[0] for part in (model, copy)]
    for loss in losses:
        loss.backward()
    assert float(losses[1].detach()) == pytest.approx(float(losses[0].detach()), rel=5e-3)
    assert copy.embedding.grad.dtype == torch.float32
    for (name, ours), theirs in zip(model.named_parameters(), copy.parameters(), strict=True):
        if float(ours.grad.norm()) > 1e-3 * float(ours.norm()):  # keys' biases have no gradient but noise
            cosine = torch.nn.functional.cosine_similarity(
                ours.grad.flatten(), theirs.grad.float().flatten(), dim=0
            )
            assert float(cosine) > 0.97, name
    frequent = [part.embedding.grad[7] for part in (model, copy)]
    assert float(torch.nn.functional.cosine_similarity(*frequent, dim=0)) > 0.97


def test_the_last_rows_of_the_loss_count_as_the_others() -> None:
    model = random_model()
    for rows in (LOSS_CHUNK // 8, LOSS_CHUNK // 8 + 1, 3):
        source, target = random_batch(rows)
        model.zero_grad()
        loss, _, count = model(source, target, 0.1)
        loss.backward()
        states = model.decode(target, *model.encode(source)) @ model.embedding.t()
        found = model.embedding.grad.clone()
        wanted = torch.nn.functional.cross_entropy(
            states.flatten(0, 1), target.flatten(), label_smoothing=0.1, reduction="sum"
        )
        model.zero_grad()
        wanted.backward()
        assert count == rows * 8
        torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(found, model.embedding.grad, rtol=1e-3, atol=1e-4)


def test_many_candidates_come_in_few_numbers() -> None:
    numbers = {
        len(sample_vocabulary(torch.randint(0, 5000, (n,)), 5000, CANDIDATE_STEP)[0])
        for n in range(1, 200, 7)
    }
    assert numbers == {2 * CANDIDATE_STEP, 3 * CANDIDATE_STEP} or numbers == {2 * CANDIDATE_STEP}

"""Translation training: exact weights, exact loss, exact resumption, and messages for bad configurations."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.reference.tiny_marian import VOCAB_SIZE, checkpoint, text_pairs  # noqa: E402
from training.cli import main as train_main  # noqa: E402
from training.mt import command as mt  # noqa: E402
from training.mt import data as mt_data  # noqa: E402
from training.mt import loop as mt_loop  # noqa: E402
from training.mt.config import load_config  # noqa: E402
from training.mt.model import FastMarian, from_marian, sample_vocabulary, to_marian  # noqa: E402
from training.mt.optim import Muon, learning_rate_factor, orthogonalize  # noqa: E402
from training.mt.text_augment import ErrorRates, recogniser_style  # noqa: E402
from training.mt.vocabulary import move_embedding  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def hub_model(folder: Path | None = None):
    from transformers import MarianMTModel

    return MarianMTModel.from_pretrained(folder or checkpoint("swish", seed=5)).eval()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    pad = VOCAB_SIZE - 1
    source = torch.tensor([[5, 9, 11, 0, pad], [7, 8, 20, 21, 0]])
    return source, torch.tensor([[30, 31, 0, pad], [4, 5, 6, 0]])


def test_loss_and_gradients_equal_those_of_marian() -> None:
    model = hub_model()
    fast, (source, target), pad = from_marian(model), batch(), VOCAB_SIZE - 1
    _, nll, count = fast(source, target)
    labels = target.masked_fill(target == pad, -100)
    wanted = model(input_ids=source, attention_mask=(source != pad).long(), labels=labels).loss
    assert count == 7
    assert nll.item() / count == pytest.approx(wanted.item(), rel=1e-5)
    loss, _, _ = fast(source, target)
    (loss / count).backward()
    wanted.backward()
    gradient = model.model.encoder.layers[0].self_attn.k_proj.weight.grad
    width = model.config.d_model
    torch.testing.assert_close(
        fast.encoder[0].attention.qkv.weight.grad[width : 2 * width], gradient, rtol=1e-3, atol=1e-6
    )
    # transformers keeps the row of padding, which also starts the decoder, from learning
    ours, theirs = fast.embedding.grad[:pad], model.model.shared.weight.grad[:pad]
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_weights_survive_the_round_trip_exactly() -> None:
    model = hub_model()
    again = to_marian(from_marian(model))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_label_smoothing_equals_torch() -> None:
    fast, (source, target) = from_marian(hub_model()), batch()
    with torch.no_grad():
        loss, _, _ = fast(source, target, smoothing=0.1)
        states = fast.decode(target, *fast.encode(source)) @ fast.embedding.t()
        wanted = torch.nn.functional.cross_entropy(
            states.flatten(0, 1), target.flatten(), ignore_index=VOCAB_SIZE - 1, label_smoothing=0.1,
            reduction="sum",
        )  # fmt: skip
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-4)


def test_sampling_the_whole_vocabulary_is_the_full_softmax() -> None:
    fast, (source, target) = from_marian(hub_model()), batch()
    with torch.no_grad():
        _, whole, _ = fast(source, target)
        _, sampled, _ = fast(source, target, n_sampled=VOCAB_SIZE)
    torch.testing.assert_close(whole, sampled, rtol=1e-5, atol=1e-4)
    candidates, position, offset = sample_vocabulary(torch.tensor([7, 3, 7]), 50, 10)
    assert len(candidates) == 12 and len(set(candidates.tolist())) == 12
    assert candidates[position].tolist() == [7, 3, 7]
    assert offset[:2].tolist() == [0.0, 0.0] and float(offset[2]) == pytest.approx(np.log(4.8))


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 16, 64), (2, 64, 16)])
def test_orthogonalize_brings_singular_values_together(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    update = orthogonalize(torch.randn(shape), steps=8)
    values = torch.linalg.svdvals(update)
    assert values.max() < 1.3 and values.median() > 0.6
    assert update.shape == shape


def test_schedules() -> None:
    assert learning_rate_factor("linear", 0, 10, 0.0) == pytest.approx(0.1)
    assert learning_rate_factor("linear", 500, 10, 1.0) == 0.0
    assert learning_rate_factor("cosine", 500, 10, 0.5) == pytest.approx(0.5)
    assert learning_rate_factor("inverse_sqrt", 39, 10, 0.5) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="linear, cosine"):
        learning_rate_factor("step", 0, 1, 0.0)


def write_run(folder: Path, **training: object) -> Path:
    """Files of a very small run; returns the configuration."""
    import yaml

    lines = [f"{a}\t{b}\ttoy" for a, b in text_pairs()[:300]]
    (folder / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    dev = [f"{i}\t{a}\t{b}" for i, (a, b) in enumerate(text_pairs()[:12])]
    (folder / "dev.tsv").write_text("\n".join(dev) + "\n", encoding="utf-8")
    tree = {
        "output_dir": str(folder / "run"),
        "data": {"train": [str(folder / "train.tsv")], "dev": {"toy": str(folder / "dev.tsv")},
                 "max_tokens": 40},
        "model": {"vocab_size": 200, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
                  "attention_heads": 2, "ffn_dim": 32, "max_positions": 64},
        "training": {"max_steps": 6, "batch_tokens": 400, "warmup_steps": 2, "checkpoint_minutes": 0.0,
                     "average_checkpoints": 9, "log_steps": 2, "eval_sentences": 4, "sampled_vocab": 0,
                     **training},
    }  # fmt: skip
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    path = folder / "run" / "checkpoints" / f"step_{step:08d}.pt"
    return torch.load(path, weights_only=True)["model"]


def test_a_run_trains_resumes_to_the_step_and_saves_a_marian_model(tmp_path: Path) -> None:
    from transformers import MarianMTModel

    whole, halves = tmp_path / "whole", tmp_path / "halves"
    whole.mkdir()
    halves.mkdir()
    final = mt.train(load_config(write_run(whole, schedule="inverse_sqrt")))
    mt.train(load_config(write_run(halves, schedule="inverse_sqrt", max_steps=3)))
    mt.train(load_config(write_run(halves, schedule="inverse_sqrt")), resume=True)
    for name, tensor in weights(whole, 6).items():
        assert torch.equal(tensor, weights(halves, 6)[name]), name
    model = MarianMTModel.from_pretrained(final)
    assert model.config.pad_token_id == model.config.vocab_size - 1
    output = mt.translate(model.eval(), final, [text_pairs()[0][0]])
    assert isinstance(output[0], str)
    assert not list((whole / "run" / "checkpoints").glob("*.tmp"))


def test_two_processes_equal_one_that_accumulates(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    mt.train(load_config(write_run(one, max_steps=3, accumulate=2)))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    config = write_run(two, max_steps=3, eval_minutes=0.0)  # the first one evaluates, the other waits
    command += ["-m", "training", "mt", "--config", str(config)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("toy/written/bleu") == 4  # after each step, and of the final model
    found = weights(two, 3)
    for name, tensor in weights(one, 3).items():
        got = found[name]
        if name.endswith(("qkv.bias", "kv.bias")):  # a key's bias has no gradient but rounding
            got, tensor = without_keys(got), without_keys(tensor)
        torch.testing.assert_close(got, tensor, rtol=1e-4, atol=1e-5)


def without_keys(bias: torch.Tensor) -> torch.Tensor:
    """Of packed queries (if there are any), keys and values."""
    *queries, _, values = bias.split(16)
    return torch.cat([*queries, values])


@pytest.mark.parametrize(
    "changes", [{"precision": "bf16"}, {"optimizer": "adamw", "lr": 1e-3}, {"sampled_vocab": 30}]
)
def test_other_precisions_optimisers_and_losses_run(tmp_path: Path, changes: dict[str, object]) -> None:
    mt.train(load_config(write_run(tmp_path, max_steps=2, **changes)))
    before, after = (weights(tmp_path, step)["embedding"] for step in (1, 2))
    assert torch.isfinite(after).all() and not torch.equal(before, after)
    assert (after[-1] == 0).all()  # <pad>


def test_fine_tuning_starts_from_the_checkpoint(tmp_path: Path) -> None:
    config = load_config(write_run(tmp_path), {"model.init_from": str(checkpoint("swish", seed=5))})
    model, folder, _ = mt._prepare(config, tmp_path)
    assert folder == checkpoint("swish", seed=5)
    assert torch.equal(model.embedding, from_marian(hub_model()).embedding)


def test_a_model_gets_other_pieces_and_trains_on(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    command = ["mt-vocabulary", "--model", str(checkpoint(seed=5)), "--config", str(path)]
    command += ["--set", "model.vocab_size=180", "--set", "model.byte_fallback=false"]
    assert train_main([*command, "--out", str(tmp_path / "new")]) == 0
    old, new = (hub_model(folder) for folder in (checkpoint(seed=5), tmp_path / "new"))
    pieces, before = (
        json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        for folder in (tmp_path / "new", checkpoint(seed=5))
    )
    rows, old_rows = new.model.shared.weight, old.model.shared.weight
    assert rows.shape == (180, 32) and (rows[pieces["<pad>"]] == 0).all()
    same = [piece for piece in pieces if piece in before and piece != "<pad>"]
    assert len(same) > 50
    for piece in same:
        assert torch.equal(rows[pieces[piece]], old_rows[before[piece]]), piece
    assert rows.isfinite().all() and (rows.abs().sum(1) > 0).sum() > 170
    assert torch.equal(new.model.encoder.layers[1].fc1.weight, old.model.encoder.layers[1].fc1.weight)
    mt.train(load_config(path, {"model.init_from": str(tmp_path / "new"), "training.max_steps": 2}))
    assert train_main([*command, "--out", str(tmp_path)]) == 1  # would replace its own text


def test_a_piece_without_a_capital_takes_that_of_the_capitalised_one(tmp_path: Path) -> None:
    folder = checkpoint(seed=5)
    before = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    capital = next(p for p in before if p[0] == "\u2581" and p[1:2].isupper() and p.lower() not in before)
    embedding = torch.randn(len(before), 8)
    moved, counts = move_embedding(embedding, folder, {capital.lower(): 0, "<pad>": 1, "zuvo": 2})
    assert torch.equal(moved[0], embedding[before[capital]]) and (moved[1] == 0).all()
    assert moved[2].abs().sum() > 0 and counts == {"same": 0, "capitalised": 1, "spelled": 1}


def test_a_checkpoint_that_cannot_be_had_or_has_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a folder nor available"):
        mt.checkpoint_folder("nobody/no such model")
    with pytest.raises(ValueError, match=r"no source\.spm, target\.spm, vocab\.json"):
        mt.checkpoint_folder(str(tmp_path))


def test_the_gate_stops_a_model_that_ignores_its_source(tmp_path: Path) -> None:
    config = load_config(write_run(tmp_path, gate_tokens=1, max_steps=300, lr=0.0, adam_lr=0.0))
    with pytest.raises(mt_loop.GateError, match="ignores its source"):
        mt.train(config)


def test_early_stopping_ends_the_run(tmp_path: Path) -> None:
    config = load_config(
        write_run(tmp_path, max_steps=400, eval_minutes=0.0, early_stop_evals=1, lr=0.0, adam_lr=0.0)
    )
    mt.train(config)
    newest = mt_loop.checkpoints(tmp_path / "run" / "checkpoints")[-1]
    assert torch.load(newest, weights_only=True)["progress"]["step"] < 10


def test_an_epoch_draws_by_weight_and_is_the_same_again() -> None:
    offsets = np.stack([np.arange(0, 4004, 4)] * 3)
    corpus = mt_data.TokenizedCorpus(np.ones(4000, np.uint16), offsets, np.full(1000, 0.25, np.float32))
    plans = [mt_data.epoch_batches(corpus, 3, batch_tokens=64, spoken_share=0.5, seed=1) for _ in range(2)]
    rows = np.concatenate([rows for rows, _ in plans[0]])
    assert 180 < len(rows) < 320 and len(set(rows.tolist())) == len(rows)
    for (a, x), (b, y) in zip(*plans, strict=True):
        assert np.array_equal(a, b) and np.array_equal(x, y)
        assert len(a) * 8 <= 64


@pytest.mark.parametrize(
    ("change", "message"),
    [({"training.lrr": 1}, "unknown key training.lrr"), ({"data": 3}, "data. must be a mapping"),
     ({"colour": 1}, "unknown key colour")],
)  # fmt: skip
def test_configuration_errors_name_the_key(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(write_run(tmp_path), change)


def test_the_shipped_configuration_loads() -> None:
    config = load_config(ROOT / "training" / "configs" / "mt_de_en_mini.yaml")
    assert config.model.vocab_size % 16 == 0


def test_malformed_pairs_name_the_line(tmp_path: Path) -> None:
    (tmp_path / "bad.tsv").write_text("a\tb\nno tab here\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bad\.tsv:2"):
        mt_data.read_pairs(tmp_path / "bad.tsv")


def test_recogniser_style_is_lower_case_letters_with_a_few_errors() -> None:
    text = "Am 3. Mai 1998 fuhr Herr Müller nach Köln, oder?"
    assert recogniser_style(text, random.Random(0)).startswith("am dritten mai ")
    many = [
        recogniser_style(text, random.Random(i), ErrorRates(sound_alike=0.3, drop=0.1)) for i in range(50)
    ]
    assert len(set(many)) > 20
    assert all(set(line) <= set("abcdefghijklmnopqrstuvwxyzäöüß ") for line in many)
    assert recogniser_style("...", random.Random(0), ErrorRates()) == ""


def test_unsupported_models_are_refused_with_every_reason() -> None:
    from transformers import MarianConfig

    config = MarianConfig(vocab_size=50, pad_token_id=49, decoder_ffn_dim=7, decoder_attention_heads=2)
    with pytest.raises(ValueError, match="attention heads, different feed-forward"):
        FastMarian(config)


def test_muon_is_torchs_on_single_matrices_and_not_on_fused_ones() -> None:
    """What would have to change before torch's own could be used."""
    torch.manual_seed(0)
    for blocks, same in ((1, True), (3, False)):
        ours = torch.nn.Linear(32, 96, bias=False)
        ours.blocks = blocks
        theirs = torch.nn.Linear(32, 96, bias=False)
        theirs.load_state_dict(ours.state_dict())
        start, gradient = ours.weight.detach().clone(), torch.randn(96, 32)
        optimizers = (
            Muon([ours], lr=0.02),
            torch.optim.Muon([theirs.weight], lr=0.02, weight_decay=0.0, momentum=0.95, ns_steps=4),
        )
        for layer, optimizer in zip((ours, theirs), optimizers, strict=True):
            for _ in range(2):
                layer.weight.grad = gradient.clone()
                optimizer.step()
        left, right = (layer.weight.detach() - start for layer in (ours, theirs))
        cosine = float((left * right).sum() / left.norm() / right.norm())
        assert (cosine > 0.999) == same


def test_a_bad_pair_is_noticed_at_its_step_named_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    honest = mt_loop.Trainer._accumulate

    def hurting(self: mt_loop.Trainer, batch: mt_data.Batch) -> tuple[float, int]:
        nll, tokens = honest(self, batch)
        bad = self.corpus.sentence(2, 7).tolist()
        hit = any(row[: len(bad)].tolist() == bad for row in batch.target)
        if hit:
            self.model.embedding.grad.fill_(float("nan"))
        return (float("nan") if hit else nll), tokens

    monkeypatch.setattr(mt_loop.Trainer, "_accumulate", hurting)
    mt.train(load_config(write_run(tmp_path, max_steps=30, checkpoint_minutes=60.0)))
    assert "not finite. The update was skipped" in caplog.text and "pair 7" in caplog.text
    newest = mt_loop.checkpoints(tmp_path / "run" / "checkpoints")[-1]
    state = torch.load(newest, weights_only=True)
    assert state["progress"]["step"] == 30 and state["progress"]["rate"] == 1.0
    assert "pair 7" in state["excluded"]
    assert all(torch.isfinite(tensor).all() for tensor in state["model"].values())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"training.batch_tokens": 12}, "longest pair has"), ({"data.max_tokens": 2}, "no pair of the corpus"),
     ({"training.batch_tokens": 1_000_000}, "batches for 2 processes")],
)  # fmt: skip
def test_a_plan_that_cannot_be_trained_on_is_told_first(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    config = load_config(write_run(tmp_path), {**change, "data.dev": {}})
    model, _, corpus = mt._prepare(config, tmp_path)
    trainer = mt_loop.Trainer(
        model, corpus, config.training, tmp_path, spoken_share=0.5, seed=1, hooks=mt_loop.Hooks()
    )
    trainer.world = 2
    with pytest.raises(mt_loop.PlanError, match=message):
        trainer.run()


def test_a_new_run_does_not_mix_with_an_earlier_one(tmp_path: Path) -> None:
    mt.train(load_config(write_run(tmp_path, max_steps=1)))
    with pytest.raises(ValueError, match="--resume"):
        mt.train(load_config(write_run(tmp_path, max_steps=2)))


def test_every_problem_of_the_configuration_is_in_one_error(tmp_path: Path) -> None:
    changes = {"training.lr": "fast", "training.schedule": "step", "model.d_model": 1.5, "data.train": 3}
    with pytest.raises(ValueError, match=r"data\.train.*model\.d_model.*training\.lr.*training\.schedule"):
        load_config(write_run(tmp_path), changes)

"""Large models and several processes: what saves memory and time must not change what is learned."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
yaml = pytest.importorskip("yaml")

from tests.reference.tiny_training import TINY_WAV2VEC2  # noqa: E402
from training.asr import trainer as trainer_module  # noqa: E402
from training.asr.config import AsrConfig  # noqa: E402
from training.asr.model import build_model, compute_ctc, compute_logits  # noqa: E402
from training.asr.trainer import AsrTrainer, choose_device  # noqa: E402
from training.cli import main  # noqa: E402
from training.common.data import build_vocabulary, probe_samples, read_manifest  # noqa: E402

pytestmark = pytest.mark.usefixtures("light_training")

VOCABULARY = build_vocabulary([])
SCRATCH = {
    **TINY_WAV2VEC2,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "conv_dim": [32, 64],
}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    lines = ["path\ttext_de"]
    for number, text in enumerate(["ja", "nein", "gut", "so", "wie", "was", "da"]):
        tone = 0.3 * np.sin(np.arange(9600 + 640 * number) * 0.05 * (number + 1))
        soundfile.write(folder / f"{number}.wav", tone, 16_000)
        lines.append(f"{number}.wav\t{text}")
    (folder / "m.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "m.tsv"


def make_config(folder, manifest, **changes):
    values = {
        "output_dir": folder / "run", "train": (manifest,), "scratch": SCRATCH, "bf16": False, "batch_s": 4.0,
        "epochs": 100, "max_steps": 4, "mask_time": 0.0, "augment": 0.0, "warmup_steps": 2, "save_every": 2,
        "eval_every": 1000,
    }  # fmt: skip
    return AsrConfig(**{**values, **changes})


def make_trainer(config, model=None):
    samples = probe_samples(read_manifest(config.train[0]))
    return AsrTrainer(config, model or build_model(config, VOCABULARY), VOCABULARY, samples, [])


def gradients(model, batch):
    logits, frames = compute_logits(model, batch)
    compute_ctc(logits, frames, batch.labels)[0].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_checkpointed_gradients_are_the_plain_ones(tmp_path, manifest):
    config = make_config(tmp_path, manifest)
    plain = build_model(config, VOCABULARY).train()
    frugal = build_model(make_config(tmp_path, manifest, gradient_checkpointing=True), VOCABULARY).train()
    assert frugal.is_gradient_checkpointing and not plain.is_gradient_checkpointing
    batch = make_trainer(config).load([0, 1, 2], 0)
    left, right = gradients(plain, batch), gradients(frugal, batch)
    assert left.keys() == right.keys()
    assert all(torch.allclose(left[name], right[name], atol=1e-4) for name in left)


def test_a_local_checkpoint_is_fine_tuned_with_a_frozen_front_end(tmp_path, manifest):
    """The path of XLS-R: a folder as the hub has it, another vocabulary, checkpointing, accumulation."""
    config = transformers.Wav2Vec2Config(**SCRATCH, vocab_size=12)
    transformers.Wav2Vec2ForCTC(config).save_pretrained(tmp_path / "hub")
    settings = {"scratch": {}, "model": str(tmp_path / "hub"), "gradient_checkpointing": True}
    run = make_trainer(
        make_config(tmp_path, manifest, accumulate=2, batch_s=2.0, freeze_encoder_steps=1, **settings)
    )
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run.run()
    changed = {name for name, p in run.model.named_parameters() if not torch.equal(p, before[name])}
    assert run.model.lm_head.out_features == len(VOCABULARY)
    assert not any("feature_extractor" in name for name in changed)
    assert any("encoder.layers" in name for name in changed) and "lm_head.weight" in changed


@pytest.mark.parametrize("blank", ["<pad>", "[PAD]"])
def test_a_fine_tuned_checkpoint_keeps_what_its_head_knew(tmp_path, manifest, blank):
    """Another order of the same letters must not give a letter another letter's row."""
    theirs = {symbol: index for index, symbol in enumerate([blank, "<unk>", "|", "N", "E", "I", "Ä"])}
    old = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**SCRATCH, vocab_size=len(theirs)))
    old.save_pretrained(tmp_path / "hub")
    (tmp_path / "hub" / "vocab.json").write_text(json.dumps(theirs), encoding="utf-8")
    model = build_model(make_config(tmp_path, manifest, scratch={}, model=str(tmp_path / "hub")), VOCABULARY)
    for symbol, row in (("|", 2), ("n", 3), ("ä", 6)):
        assert torch.equal(model.lm_head.weight[VOCABULARY[symbol]], old.lm_head.weight[row])
    assert torch.equal(model.lm_head.weight[0], old.lm_head.weight[0])  # the blank
    assert model.config.vocab_size == len(VOCABULARY) == model.lm_head.out_features


def test_lora_learns_while_the_weights_below_stay(tmp_path, manifest):
    pytest.importorskip("peft")
    config = make_config(tmp_path, manifest, lora_rank=4, gradient_checkpointing=True)
    run = make_trainer(config)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run.run()
    changed = {name for name, p in run.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed and all("lora" in name or "lm_head" in name for name in changed)
    loaded = transformers.Wav2Vec2ForCTC.from_pretrained(tmp_path / "run" / "model").eval()
    batch = run.load([0], 0)
    with torch.no_grad():
        expected, found = (compute_logits(model.eval(), batch)[0] for model in (run.model, loaded))
    assert torch.allclose(expected, found, atol=1e-4)


def test_eight_bit_states_are_a_quarter_and_learn_and_resume(tmp_path, manifest):
    pytest.importorskip("bitsandbytes")
    run = make_trainer(make_config(tmp_path, manifest, optimizer_8bit=True))
    run.run()
    name = "wav2vec2.encoder.layers.0.feed_forward.intermediate_dense.weight"
    weight = dict(run.model.named_parameters())[name]
    assert run.optimizer.state[weight]["state1"].dtype == torch.uint8
    again = make_trainer(make_config(tmp_path, manifest, optimizer_8bit=True, max_steps=6))
    assert again.resume() and again.position.step == 4
    again.run()
    assert again.position.step == 6


def test_eight_bit_states_without_bitsandbytes_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(RuntimeError, match="pip install bitsandbytes"):
        trainer_module.import_adamw8bit()


def test_bfloat16_keeps_ctc_in_float32_and_still_learns(tmp_path, manifest, monkeypatch):
    kinds = []
    honest = torch.nn.functional.ctc_loss

    def watching(log_probs, *arguments, **options):
        kinds.append(log_probs.dtype)
        return honest(log_probs, *arguments, **options)

    monkeypatch.setattr("training.asr.model.functional.ctc_loss", watching)
    settings = {"learning_rate": 3e-3, "head_learning_rate": 3e-3, "max_steps": 30}
    run = make_trainer(make_config(tmp_path, manifest, bf16=True, **settings))
    first = run.step([run.load([0, 1, 2, 3], 0)]).loss
    run.run()
    assert set(kinds) == {torch.float32} and run.log.rows[-1]["train_loss"] < first


@pytest.mark.parametrize("n_processes", [2])
def test_several_processes_learn_what_one_does(tmp_path, manifest, n_processes):
    """torchrun: the same batches, divided; gradients are summed over the labels of all."""
    folders = []
    for number in (1, n_processes):
        values = {
            "train": [str(manifest)], "output_dir": str(tmp_path / str(number)), "scratch": SCRATCH,
            "bf16": False, "batch_s": 3.0, "max_steps": 4, "mask_time": 0.0, "augment": 0.0,
            "warmup_steps": 2, "eval_every": 1000, "device": "cpu",
        }  # fmt: skip
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        if number == 1:
            assert main(["asr", "--config", str(path)]) == 0
        else:
            starter = ["torch.distributed.run", "--standalone", f"--nproc_per_node={number}"]
            command = [sys.executable, "-m", *starter, "-m", "training", "asr", "--config", str(path)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=environment, capture_output=True, timeout=280)
            assert done.returncode == 0, done.stderr.decode()[-2000:]
        folders.append(tmp_path / str(number) / "checkpoint" / "state.pt")
    one, several = (torch.load(path, weights_only=True)["model"] for path in folders)
    start = build_model(make_config(tmp_path, manifest), VOCABULARY).state_dict()
    names = [name for name in one if "k_proj.bias" not in name]  # whose gradient is rounding noise
    learned = torch.cat([(one[name] - start[name]).flatten() for name in names])
    apart = torch.cat([(several[name] - one[name]).flatten() for name in names])
    assert float(learned.norm()) > 0.0 and float(apart.norm() / learned.norm()) < 0.02


def test_devices_are_chosen_by_name():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")

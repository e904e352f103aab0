"""The trainer on models of a few thousand weights: what used to kill runs, and resuming."""

import dataclasses
import shutil

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.reference.tiny_training import TINY_WAV2VEC2  # noqa: E402
from training.asr.config import AsrConfig, load_config  # noqa: E402
from training.asr.model import (  # noqa: E402
    Batch,
    build_model,
    compute_ctc,
    compute_logits,
    save_pretrained,
    takes_mask,
)
from training.asr.trainer import AsrTrainer, TrainingStopped  # noqa: E402
from training.common.augment import mask_spans  # noqa: E402
from training.common.config import ConfigError  # noqa: E402
from training.common.data import build_vocabulary, probe_samples, read_manifest  # noqa: E402

pytestmark = pytest.mark.usefixtures("light_training")

VOCABULARY = build_vocabulary([])
SCRATCH = {**TINY_WAV2VEC2, "conv_dim": [16, 16], "num_conv_pos_embeddings": 16}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    lines = ["path\ttext_de"]
    for number, text in enumerate(
        ["ja", "nein", "heute nicht", "morgen", "gut", "bis bald", "so", "wie", "was", "da"]
    ):
        times = np.arange(int(16_000 * (0.6 + 0.1 * number))) / 16_000
        tone = np.sin(2 * np.pi * (200 + 150 * number) * times) * 0.2 + rng.standard_normal(times.size) * 0.01
        soundfile.write(folder / f"{number}.wav", tone, 16_000)
        lines.append(f"{number}.wav\t{text}")
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "manifest.tsv"


def make_config(tmp_path, corpus, **changes):
    values = {
        "output_dir": tmp_path / "run", "train": (corpus,), "scratch": SCRATCH, "bf16": False, "batch_s": 3.0,
        "epochs": 100, "max_steps": 6, "mask_time": 0.0, "augment": 0.0, "warmup_steps": 2, "save_every": 2,
        "eval_every": 1000,
    }  # fmt: skip
    return AsrConfig(**{**values, **changes})


def make_trainer(config):
    samples = probe_samples(read_manifest(config.train[0]))
    return AsrTrainer(config, build_model(config, VOCABULARY), VOCABULARY, samples, [])


def test_half_precision_ctc_overflows_and_float32_does_not():
    logits = torch.zeros(1, 400, 32)
    logits[..., 0] = 70_000.0  # more than float16 holds
    labels = [[3, 4, 5]]
    without = torch.nn.functional.ctc_loss(
        logits.half().float().log_softmax(-1).transpose(0, 1),
        torch.tensor(labels),
        torch.tensor([400]),
        torch.tensor([3]),
    )
    assert not torch.isfinite(without)
    loss, n_infinite = compute_ctc(logits, torch.tensor([400]), labels)
    assert torch.isfinite(loss) and n_infinite == 0


def test_too_much_text_gives_no_nan_and_is_counted():
    logits = torch.randn(2, 6, 32, requires_grad=True)
    labels, frames = [[1, 2, 3], [1, 1, 1, 1, 1, 1]], torch.tensor([6, 6])
    plain = torch.nn.functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1),
        torch.tensor([*labels[0], *labels[1]]),
        frames,
        torch.tensor([3, 6]),
    )
    assert torch.isinf(plain)  # what the run would have died of
    loss, n_infinite = compute_ctc(logits, frames, labels)
    loss.backward()
    assert n_infinite == 1 and torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all() and logits.grad[1].abs().sum() == 0
    assert logits.grad[0].abs().sum() > 0


def test_group_norm_models_get_no_attention_mask_and_layer_norm_models_do(tmp_path, corpus):
    base = {**SCRATCH, "feat_extract_norm": "group", "do_stable_layer_norm": False}
    group = build_model(make_config(tmp_path, corpus, scratch=base), VOCABULARY).eval()
    layer = build_model(make_config(tmp_path, corpus), VOCABULARY).eval()
    assert not takes_mask(group.config) and takes_mask(layer.config)
    long, short = (np.random.default_rng(n).standard_normal(n).astype(np.float32) for n in (24_000, 12_000))
    with torch.no_grad():
        padded, frames = compute_logits(layer, Batch.of([long, short], [[1], [1]]))
        alone, _ = compute_logits(layer, Batch.of([short], [[1]]))
        masked = group.wav2vec2(torch.zeros(1, 8000), attention_mask=torch.ones(1, 8000).long())
    assert torch.allclose(padded[1, : frames[1] - 1], alone[0, : frames[1] - 1], atol=1e-4)
    assert masked.last_hidden_state.shape[1] > 0


def test_masking_spares_short_clips_where_transformers_fails(tmp_path, corpus):
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

    with pytest.raises(ValueError):
        _compute_mask_indices((1, 7), 0.06, 10)
    rng = np.random.default_rng(0)
    assert not mask_spans(7, 0.9, 10, rng).any()
    for n_frames in (0, 1, 20, 25, 500):
        assert mask_spans(n_frames, 0.9, 10, rng).sum() <= 0.4 * n_frames
    model = build_model(make_config(tmp_path, corpus), VOCABULARY)
    batch = Batch.of([rng.standard_normal(1600).astype(np.float32)], [[1]])
    logits, _ = compute_logits(model, batch, 0.5, 10, rng)
    assert torch.isfinite(logits).all()


def test_accumulated_steps_equal_one_large_batch(tmp_path, corpus):
    trainers = [make_trainer(make_config(tmp_path / str(n), corpus)) for n in range(2)]
    clips = [trainers[0].load([index], 0) for index in range(6)]
    whole = trainers[0].load(list(range(6)), 0)
    trainers[0].optimizer.zero_grad()
    trainers[0].step([whole])
    trainers[1].step(clips)
    left, right = (dict(trainer.model.named_parameters()) for trainer in trainers)
    for name in left:
        assert torch.allclose(left[name], right[name], atol=2e-4), name


def test_a_killed_run_resumes_to_the_same_weights(tmp_path, corpus):
    straight = make_trainer(make_config(tmp_path / "a", corpus, max_steps=6))
    straight.run()
    halted = make_trainer(make_config(tmp_path / "b", corpus, max_steps=6))
    halted.config = dataclasses.replace(halted.config, max_steps=4)
    schedule = halted._set_rates
    halted._set_rates = lambda: schedule_with(halted, schedule, 6)  # the rates of the longer run
    halted.run()
    resumed = make_trainer(make_config(tmp_path / "b", corpus, max_steps=6))
    resumed.run()
    assert dataclasses.replace(resumed.position, minutes=straight.position.minutes) == straight.position
    for left, right in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(left, right)


def schedule_with(trainer, schedule, max_steps):
    """Set the rates of a run of `max_steps`, whatever step the run is to end at."""
    config, trainer.config = trainer.config, dataclasses.replace(trainer.config, max_steps=max_steps)
    schedule()
    trainer.config = config


def test_the_state_survives_a_kill_while_it_is_being_saved(tmp_path, corpus):
    trainer = make_trainer(make_config(tmp_path, corpus, max_steps=2))
    trainer.run()
    folder = tmp_path / "run"
    shutil.rmtree(folder / "checkpoint.old", ignore_errors=True)
    (folder / "checkpoint").rename(folder / "checkpoint.old")  # killed between the two renames
    (folder / "checkpoint.part").mkdir()
    assert make_trainer(make_config(tmp_path, corpus)).resume()


def test_overflow_rolls_back_and_three_times_too_many_stops(tmp_path, corpus):
    trainer = make_trainer(make_config(tmp_path, corpus, max_steps=20))
    honest = trainer.step

    def broken(pending):
        report = honest(pending)
        return dataclasses.replace(report, loss=float("nan")) if report.step == 3 else report

    trainer.step = broken
    with pytest.raises(TrainingStopped, match="overflowed"):
        trainer.run()
    assert trainer.position.rate == 0.125  # halved at each of three rollbacks


def test_a_run_leaves_a_folder_transformers_loads(tmp_path, corpus):
    from transformers import AutoFeatureExtractor, Wav2Vec2ForCTC

    trainer = make_trainer(make_config(tmp_path, corpus, max_steps=2))
    trainer.run()
    folder = tmp_path / "run" / "model"
    names = ("config.json", "model.safetensors", "vocab.json", "preprocessor_config.json")
    assert all((folder / name).is_file() for name in names)
    assert AutoFeatureExtractor.from_pretrained(folder).return_attention_mask is True
    loaded = Wav2Vec2ForCTC.from_pretrained(folder).eval()
    batch = trainer.load([0], 0)
    with torch.no_grad():
        expected, _ = compute_logits(trainer.model.eval(), batch)
        assert torch.allclose(
            loaded(batch.waveforms, attention_mask=torch.ones_like(batch.waveforms).long()).logits,
            expected,
            atol=1e-5,
        )
    assert (tmp_path / "run" / "table.tsv").is_file()


def test_lora_trains_few_weights_and_merges_when_saved(tmp_path, corpus):
    pytest.importorskip("peft")
    model = build_model(make_config(tmp_path, corpus, lora_rank=2), VOCABULARY)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all("lora" in name or "lm_head" in name for name in trained)
    save_pretrained(model, VOCABULARY, tmp_path / "merged")
    from transformers import Wav2Vec2ForCTC

    loaded = Wav2Vec2ForCTC.from_pretrained(tmp_path / "merged")
    assert not any("lora" in name for name, _ in loaded.named_parameters())


def test_configuration_refuses_unknown_keys_and_impossible_values(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("train: [a.tsv]\noutput_dir: out\nlearning_rat: 1\n")
    with pytest.raises(ConfigError, match="learning_rat"):
        load_config(path)
    path.write_text("train: [a.tsv]\noutput_dir: out\nbatch_s: 0\n")
    with pytest.raises(ConfigError, match=r"scratch.*batch_s"):
        load_config(path)

"""What kills training runs, brought about for real: the failure without the cure, the run's life with it."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
yaml = pytest.importorskip("yaml")

from tests.reference.recorded_training import recording  # noqa: E402
from tests.reference.tiny_training import TINY_WAV2VEC2  # noqa: E402
from training.asr.config import AsrConfig  # noqa: E402
from training.asr.doctor import SampleLimits, examine  # noqa: E402
from training.asr.model import Batch, build_model, compute_ctc, compute_logits  # noqa: E402
from training.asr.trainer import AsrTrainer, TrainingStopped  # noqa: E402
from training.cli import main  # noqa: E402
from training.common.data import BucketSampler, build_vocabulary, probe_samples, read_manifest  # noqa: E402

pytestmark = pytest.mark.usefixtures("light_training")

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY = build_vocabulary([])
TEXTS = ("ja", "nein", "gut", "so", "wie", "was", "da", "bis bald")


def write_corpus(folder, texts=TEXTS, seconds=0.6):
    """Tones, one pitch a text; returns the manifest."""
    lines = ["path\ttext_de"]
    for number, text in enumerate(texts):
        times = np.arange(int(16_000 * seconds) + 320 * number) / 16_000
        soundfile.write(
            folder / f"{number}.wav", 0.3 * np.sin(2 * np.pi * (200 + 170 * number) * times), 16_000
        )
        lines.append(f"{number}.wav\t{text}")
    (folder / "m.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "m.tsv"


def make_config(folder, manifest, **changes):
    values = {
        "output_dir": folder / "run", "train": (manifest,), "scratch": TINY_WAV2VEC2, "bf16": False,
        "batch_s": 3.0,
        "epochs": 1000, "max_steps": 60, "mask_time": 0.0, "augment": 0.0, "warmup_steps": 5,
        "save_every": 1000, "eval_every": 1000, "learning_rate": 3e-3, "head_learning_rate": 1e-2,
        "patience": 10,
    }  # fmt: skip
    return AsrConfig(**{**values, **changes})


def make_trainer(config):
    samples = probe_samples(read_manifest(config.train[0]))
    return AsrTrainer(config, build_model(config, VOCABULARY), VOCABULARY, samples, [])


def test_nan_poisons_a_plain_step_and_ours_goes_back(tmp_path):
    """A sample with infinite loss: the plain loss makes every weight NaN in one step."""
    manifest = write_corpus(tmp_path, ("ja", "aa" * 60))
    config = make_config(tmp_path, manifest, max_steps=3, batch_s=10.0)
    plain = build_model(config, VOCABULARY)
    trainer = make_trainer(config)
    batch = trainer.load([0, 1], 0)
    logits, frames = compute_logits(plain, batch)
    lengths = torch.tensor([len(label) for label in batch.labels])
    flat = torch.tensor([index for label in batch.labels for index in label])
    loss = torch.nn.functional.ctc_loss(logits.log_softmax(-1).transpose(0, 1), flat, frames, lengths)
    loss.backward()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter -= 1e-3 * (parameter.grad if parameter.grad is not None else 0.0)
    assert not torch.isfinite(loss) and torch.isnan(plain.lm_head.weight).any()  # without the cure
    report = trainer.step([batch])
    assert np.isfinite(report.loss) and report.n_infinite == 1
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


def test_a_loss_of_zero_that_looks_like_success_is_stopped_and_its_samples_named(tmp_path):
    """Texts longer than their audio, with zero_infinity: transformers' loss is 0.0 and nothing is learned."""
    manifest = write_corpus(tmp_path, ["zu viel text fuer so wenig ton"] * 4, seconds=0.3)
    config = make_config(tmp_path, manifest)
    trainer = make_trainer(config)
    batch = trainer.load([0, 1, 2, 3], 0)
    labels = torch.tensor(batch.labels)
    plain = build_model(config, VOCABULARY)
    with torch.no_grad():
        assert float(plain(batch.waveforms, labels=labels).loss) == 0.0  # without the cure
    with pytest.raises(TrainingStopped, match="more text than frames"):
        trainer.run()
    good, bad = examine(trainer.train_samples, VOCABULARY, SampleLimits())
    assert not good and all("too much text" in problem for _, problem in bad)


def test_the_blank_only_plateau_is_called_out_and_its_advice_works(tmp_path):
    """A head that learns too slowly says blank everywhere; the rate that the watchdog asks for cures it."""
    manifest = write_corpus(tmp_path)
    stuck = make_config(
        tmp_path / "a", manifest, learning_rate=1e-5, head_learning_rate=2e-4, max_steps=400, watch_warmup=60,
    )  # fmt: skip
    trainer = make_trainer(stuck)
    with torch.no_grad():
        trainer.model.lm_head.bias[0] += (
            2.0  # where every CTC model arrives first: the blank is the safe answer
        )
    with pytest.raises(TrainingStopped, match="higher learning rate for the head"):
        trainer.run()
    cured = make_trainer(make_config(tmp_path / "b", manifest, max_steps=250, watch_warmup=200))
    with torch.no_grad():
        cured.model.lm_head.bias[0] += 2.0
    cured.run()
    assert cured.log.rows[-1]["blank_ratio"] < 0.95 and cured.log.rows[-1]["cer"] < 50.0


def test_group_norm_models_are_hurt_by_mask_and_padding_and_our_batches_spare_them(tmp_path):
    """The norm runs over time: a mask changes what the model says, and so does much padding."""
    base = {**TINY_WAV2VEC2, "feat_extract_norm": "group", "do_stable_layer_norm": False}
    model = build_model(make_config(tmp_path, write_corpus(tmp_path), scratch=base), VOCABULARY).eval()
    rng = np.random.default_rng(0)
    clip, long = (rng.standard_normal(n).astype(np.float32) for n in (16_000, 32_000))
    near = rng.standard_normal(16_600).astype(np.float32)

    def error(other, masked):
        batch = Batch.of([clip, other], [[1], [1]])
        positions = torch.arange(batch.waveforms.shape[1])[None] < batch.lengths[:, None]
        with torch.no_grad():
            alone = compute_logits(model, Batch.of([clip], [[1]]))[0][0]
            if masked:
                together = model(batch.waveforms, attention_mask=positions.long()).logits[0]
            else:
                together = compute_logits(model, batch)[0][0]
        n_frames = len(alone) - 2
        return float((together[:n_frames] - alone[:n_frames]).norm() / alone[:n_frames].norm())

    careless, ours = error(long, masked=True), error(near, masked=False)
    assert careless > 0.05 and ours < 0.4 * careless
    durations = rng.uniform(1.0, 10.0, 400)
    padded = sum(durations[b].max() * len(b) for b in BucketSampler(durations, 40.0).epoch(0))
    assert padded < 1.1 * durations.sum()  # the trainer's own batches are as near


def test_a_run_killed_in_mid_epoch_goes_on_at_its_step_with_the_same_data(tmp_path, monkeypatch):
    """SIGKILL, no warning: the second start repeats what the last checkpoint had not yet, then goes on."""
    manifest = write_corpus(tmp_path)
    runs = {}
    for name in ("straight", "killed"):
        values = {
            "train": [str(manifest)], "output_dir": str(tmp_path / name),
            "scratch": TINY_WAV2VEC2, "bf16": False,
            "batch_s": 1.5, "max_steps": 9, "save_every": 2, "eval_every": 1000, "augment": 0.5,
        }  # fmt: skip
        config = tmp_path / f"{name}.yaml"
        config.write_text(yaml.safe_dump(values), encoding="utf-8")
        log = tmp_path / f"{name}.log"
        if name == "killed":
            command = [sys.executable, "-m", "tests.reference.recorded_training", str(config), str(log), "5"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, cwd=ROOT, env=environment, timeout=240, capture_output=True)
            assert done.returncode == -signal.SIGKILL
        with monkeypatch.context() as patched:
            patched.setattr(AsrTrainer, "step", recording(log, 0))
            assert main(["asr", "--config", str(config)]) == 0
        runs[name] = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [row[0] for row in runs["killed"]]
    assert steps == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9]  # the checkpoint was of step 4
    assert runs["killed"][:4] + runs["killed"][5:] == runs["straight"]  # the same clips, the same losses
    left, right = (
        torch.load(tmp_path / name / "checkpoint" / "state.pt", weights_only=True)["model"] for name in runs
    )
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_a_disk_that_is_really_full_ends_the_run_and_spares_the_last_checkpoint(tmp_path, caplog):
    """Files may not grow beyond a limit, so writes fail in the middle, as they do on a full disk."""
    manifest = write_corpus(tmp_path)
    config = tmp_path / "c.yaml"
    values = {
        "train": [str(manifest)], "output_dir": str(tmp_path / "run"),
        "scratch": TINY_WAV2VEC2, "bf16": False,
        "max_steps": 1, "save_every": 1, "epochs": 50,
    }  # fmt: skip
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    arguments = ["asr", "--config", str(config)]
    assert main(arguments) == 0
    before = (tmp_path / "run" / "checkpoint" / "state.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
        assert main([*arguments, "--max_steps", "3"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "free some space" in caplog.text
    assert (tmp_path / "run" / "checkpoint" / "state.pt").read_bytes() == before
    assert main([*arguments, "--max_steps", "3"]) == 0  # with space, it goes on from there
    position = json.loads((tmp_path / "run" / "checkpoint" / "position.json").read_text())
    assert position["step"] == 3


def test_overflow_in_a_real_run_goes_back_to_a_checkpoint_with_half_the_rate(tmp_path):
    """A weight that turns infinite in mid-run: the run goes on from the last good state."""
    trainer = make_trainer(make_config(tmp_path, write_corpus(tmp_path), max_steps=12, save_every=2))
    honest, hurt = trainer.step, []

    def hurting(pending):
        if trainer.position.step == 5 and not hurt:
            hurt.append(True)
            with torch.no_grad():
                trainer.model.lm_head.weight.fill_(float("inf"))
        return honest(pending)

    trainer.step = hurting
    trainer.run()
    assert trainer.position.step == 12 and trainer.position.rate == 0.5
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


def test_the_ctc_loss_of_a_finite_batch_is_the_plain_one():
    logits = torch.randn(2, 30, 32)
    frames, labels = torch.tensor([30, 22]), [[3, 4, 4], [7]]
    expected = torch.nn.functional.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1), torch.tensor([3, 4, 4, 7]), frames, torch.tensor([3, 1]),
        reduction="sum",
    )  # fmt: skip
    found, n_infinite = compute_ctc(logits, frames, labels)
    assert n_infinite == 0 and torch.allclose(found, expected)


def test_positions_of_older_checkpoints_still_load(tmp_path):
    trainer = make_trainer(make_config(tmp_path, write_corpus(tmp_path), max_steps=2))
    trainer.run()
    path = tmp_path / "run" / "checkpoint" / "position.json"
    position = json.loads(path.read_text())
    position.pop("minutes")
    path.write_text(json.dumps(position), encoding="utf-8")
    assert trainer.resume() and trainer.position.minutes == 0.0
    assert dataclasses.asdict(trainer.position)["step"] == 2

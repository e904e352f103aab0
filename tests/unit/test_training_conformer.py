"""The log-mel Conformer from random weights, by the same command and trainer as Wav2Vec2."""

import json

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
yaml = pytest.importorskip("yaml")

from training.asr.config import AsrConfig  # noqa: E402
from training.asr.conformer import load_checkpoint, output_lengths  # noqa: E402
from training.asr.model import build_model  # noqa: E402
from training.asr.networks import ConformerNetwork, network_of  # noqa: E402
from training.asr.trainer import AsrTrainer  # noqa: E402
from training.cli import main  # noqa: E402
from training.common.config import ConfigError  # noqa: E402
from training.common.data import build_vocabulary, probe_samples, read_manifest  # noqa: E402

pytestmark = pytest.mark.usefixtures("light_training")

VOCABULARY = build_vocabulary([])
SIZES = {"hidden_size": 32, "n_layers": 1, "n_heads": 2, "intermediate_size": 64, "conv_width": 7}


@pytest.fixture
def manifest(tmp_path):
    lines = ["path\ttext_de"]
    for number, text in enumerate(["ja", "nein", "gut", "so"]):
        tone = 0.3 * np.sin(np.arange(12_000 + 800 * number) * 0.06 * (number + 1))
        soundfile.write(tmp_path / f"{number}.wav", tone, 16_000)
        lines.append(f"{number}.wav\t{text}")
    (tmp_path / "m.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "m.tsv"


def make_values(folder, manifest, **changes):
    values = {
        "output_dir": str(folder / "run"), "train": [str(manifest)], "conformer": SIZES, "bf16": False,
        "batch_s": 4.0, "epochs": 1000, "max_steps": 3, "mask_time": 0.0, "augment": 0.0, "warmup_steps": 5,
        "learning_rate": 3e-3, "head_learning_rate": 3e-3, "save_every": 2, "eval_every": 1000,
    }  # fmt: skip
    return {**values, **changes}


def make_trainer(folder, manifest, **changes):
    values = make_values(folder, manifest, **changes)
    config = AsrConfig(**{**values, "output_dir": folder / "run", "train": (manifest,)})
    samples = probe_samples(read_manifest(manifest))
    return AsrTrainer(config, build_model(config, VOCABULARY), VOCABULARY, samples, [])


def test_the_command_learns_clips_by_heart_and_its_folder_loads(tmp_path, manifest):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(make_values(tmp_path, manifest, max_steps=0)), encoding="utf-8")
    assert main(["asr", "--config", str(path), "--overfit", "4"]) == 0
    model = load_checkpoint(tmp_path / "run" / "overfit" / "model")
    assert not torch.equal(model.mel_mean, torch.zeros(80))  # the features' scale went along
    arguments = ["evaluate", str(tmp_path / "run" / "overfit" / "model"), "--data", str(manifest)]
    assert main([*arguments, "--json", str(tmp_path / "f.json")]) == 0
    (figures,) = json.loads((tmp_path / "f.json").read_text())["models"].values()
    assert figures["clean"]["greedy"]["cer"] < 10.0


def test_a_batch_counts_real_frames_and_masks_only_in_training(tmp_path, manifest):
    trainer = make_trainer(tmp_path, manifest, mask_time=0.5, mask_span=5, mask_bands=20)
    network, batch = trainer.network, trainer.load([0, 3], 0)
    assert isinstance(network, ConformerNetwork) and network.samples_per_frame == 640
    model = trainer.model.eval()
    with torch.no_grad():
        plain, frames = network.compute_logits(model, batch)
        again, _ = network.compute_logits(model, batch, trainer.config, None)
        masked, _ = network.compute_logits(model, batch, trainer.config, np.random.default_rng(0))
    assert frames.tolist() == output_lengths(batch.lengths).tolist()
    assert torch.equal(plain, again) and not torch.equal(plain, masked)
    mask = network._mask(batch, trainer.config, np.random.default_rng(0))
    assert 0.05 < mask.mean() < 0.8


def test_the_feature_scale_makes_mean_zero_and_variance_one(tmp_path, manifest):
    trainer = make_trainer(tmp_path, manifest)
    rng = np.random.default_rng(0)
    waveforms = [rng.standard_normal(16_000).astype(np.float32) * 0.1 for _ in range(3)]
    trainer.network.set_feature_scale(trainer.model, waveforms)
    batch = trainer.network.make_batch(waveforms, [[1]] * 3)
    scaled = (batch.features - trainer.model.mel_mean[:, None]) * trainer.model.mel_scale[:, None]
    assert float(scaled.mean().abs()) < 1e-3 and float(scaled.std()) == pytest.approx(1.0, abs=0.02)


def test_a_killed_run_resumes_to_the_same_weights(tmp_path, manifest):
    straight = make_trainer(tmp_path / "a", manifest, max_steps=5, save_every=2)
    straight.run()
    halted = make_trainer(tmp_path / "b", manifest, max_steps=5, save_every=2)
    honest = halted.step

    def dying(batches):
        if halted.position.step == 4:
            raise KeyboardInterrupt
        return honest(batches)

    halted.step = dying
    with pytest.raises(KeyboardInterrupt):
        halted.run()
    resumed = make_trainer(tmp_path / "b", manifest, max_steps=5, save_every=2)
    resumed.run()
    for name, tensor in straight.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_accumulated_steps_equal_one_large_batch(tmp_path, manifest):
    trainers = [make_trainer(tmp_path / str(number), manifest) for number in range(2)]
    for trainer in trainers:  # batch norm's own statistics differ by batch, as they must
        trainer.model.layers[0].convolution.batch_norm.eval()
        trainer.model.train = lambda mode=True: None
    whole, parts = trainers[0].load([0, 1, 2, 3], 0), [trainers[0].load([i], 0) for i in range(4)]
    losses = [trainers[0].step([whole]).loss, trainers[1].step(parts).loss]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_keys_that_are_no_sizes_and_settings_of_wav2vec2_are_refused(tmp_path, manifest):
    with pytest.raises(ConfigError, match="hidden_siez"):
        build_model(
            AsrConfig(output_dir=tmp_path, train=(manifest,), conformer={"hidden_siez": 3}), VOCABULARY
        )
    with pytest.raises(ConfigError, match="lora_rank"):
        AsrConfig(output_dir=tmp_path, train=(manifest,), conformer=SIZES, lora_rank=2)
    assert (
        main(["asr", "--config", str(write(tmp_path, make_values(tmp_path, manifest, scratch=SIZES)))]) == 2
    )


def write(folder, values):
    (folder / "c.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "c.yaml"


def test_network_of_tells_the_kinds_apart(tmp_path, manifest):
    assert isinstance(network_of(make_trainer(tmp_path, manifest).model), ConformerNetwork)

"""What `asr` and `mt` refuse, name and survive before and during a run."""

import dataclasses
import json
import logging
import os
import signal

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
yaml = pytest.importorskip("yaml")

from tests.reference.tiny_training import TINY_WAV2VEC2  # noqa: E402
from training.asr.config import AsrConfig, load_config  # noqa: E402
from training.asr.doctor import SampleLimits, describe_problems, examine  # noqa: E402
from training.asr.evaluation import evaluate_ctc  # noqa: E402
from training.asr.model import build_model, outline_model  # noqa: E402
from training.asr.trainer import AsrTrainer, TrainingStopped  # noqa: E402
from training.cli import main  # noqa: E402
from training.common.config import ConfigError, build_config, parse_value  # noqa: E402
from training.common.data import Sample, build_vocabulary, probe_samples, read_manifest  # noqa: E402
from training.common.finite import find_nonfinite  # noqa: E402
from training.common.watchdog import StepReport, Watchdog  # noqa: E402

pytestmark = pytest.mark.usefixtures("light_training")

VOCABULARY = build_vocabulary([])
TEXTS = ("ja", "nein", "gut", "so", "wie", "was", "da", "bis bald")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    lines = ["path\ttext_de"]
    for number, text in enumerate(TEXTS):
        times = np.arange(9600 + 640 * number) / 16_000
        soundfile.write(folder / f"{number}.wav", 0.3 * np.sin(2000 * (1 + number) * times), 16_000)
        lines.append(f"{number}.wav\t{text}")
    (folder / "m.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "m.tsv"


def make_config(folder, manifest, **changes):
    values = {
        "output_dir": folder / "run", "train": (manifest,), "scratch": TINY_WAV2VEC2, "bf16": False,
        "batch_s": 3.0, "epochs": 1000, "max_steps": 6, "mask_time": 0.0, "augment": 0.0, "warmup_steps": 2,
        "save_every": 2, "eval_every": 1000, "patience": 10,
    }  # fmt: skip
    return AsrConfig(**{**values, **changes})


def make_trainer(config):
    samples = probe_samples(read_manifest(config.train[0]))
    return AsrTrainer(config, build_model(config, VOCABULARY), VOCABULARY, samples, [])


def test_numbers_in_yaml_are_numbers(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "train: a.tsv\noutput_dir: out\nlearning_rate: 1e-4\nmax_steps: 2e3\n"
        "scratch: {layer_norm_eps: 1e-5}\n"
    )
    config = load_config(path)
    assert config.learning_rate == 1e-4 and config.max_steps == 2000
    assert config.scratch["layer_norm_eps"] == 1e-5
    assert parse_value("-2E+3") == -2000.0 and parse_value("1e") == "1e" and parse_value("12") == 12


def test_every_problem_of_a_configuration_is_in_one_error(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "train: [a.tsv]\nlearning_rate: fast\nbf16: 1\nmax_steps: 1.5\nepochs: -1\nlearning_rat: 1\n"
        "scratch: 3\naugment: 7\nseed: yes\n"
    )
    with pytest.raises(ConfigError) as found:
        load_config(path)
    for words in (
        "missing key output_dir", "learning_rate: got 'fast', want a number",
        "bf16: got 1, want true or false",
        "max_steps: got 1.5, want a whole number", "epochs: got -1, want more than 0",
        "unknown key learning_rat, did you mean learning_rate?", "scratch. must be a mapping",
        "augment: got 7.0, want 0 to 1", "seed: got True, want a whole number",
    ):  # fmt: skip
        assert words in str(found.value), words
    assert len(found.value.problems) >= 9


@dataclasses.dataclass(frozen=True)
class Pair:
    two: tuple[float, float]
    many: tuple[int, ...] = ()
    text: str | None = None


def test_lists_of_fixed_length_and_missing_values():
    assert build_config(Pair, {"two": [1, 2.5], "text": None}) == Pair((1.0, 2.5))
    with pytest.raises(ConfigError, match=r"two: got \[1\], want a list of 2; many\[1\]: got 'x'"):
        build_config(Pair, {"two": [1], "many": [1, "x"]})


def test_the_doctor_names_constants_and_scales_and_groups_by_kind(tmp_path):
    rng = np.random.default_rng(0)
    clips = {
        "good": rng.standard_normal(16_000) * 0.1, "offset": rng.standard_normal(16_000) * 0.1 + 0.3,
        "constant": np.full(16_000, 0.5), "huge": rng.standard_normal(16_000) * 1e20,
        "int_scale": rng.standard_normal(16_000) * 8000.0, "short": np.ones(1600), "shorter": np.ones(800),
    }  # fmt: skip
    for name, waveform in clips.items():
        soundfile.write(tmp_path / f"{name}.wav", waveform.astype(np.float32), 16_000, "FLOAT")
    samples = probe_samples([Sample(tmp_path / f"{name}.wav", "ja") for name in clips])
    good, bad = examine(samples, VOCABULARY, SampleLimits())
    assert [sample.path.stem for sample in good] == ["good", "offset"]
    found = {sample.path.stem: problem for sample, problem in bad}
    assert found["constant"].startswith("constant: all samples are about 0.5")
    assert found["huge"].startswith("wrong scale: a peak of") and "e+20" in found["huge"]
    assert found["int_scale"].startswith("wrong scale")
    report = describe_problems(bad, len(samples)).splitlines()
    assert report[0] == "5 of 7 samples are left out:"
    assert "  2 x too short" in report and "  2 x wrong scale" in report and "  1 x constant" in report
    assert len(report) == 1 + 3 + 5


def test_an_estimate_needs_neither_data_nor_a_download(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("training.asr.model.cached_file", lambda *_, **__: pytest.fail("a download"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(torch.nn.Module, "from_pretrained", None, raising=False)
    values = {"model": "facebook/wav2vec2-xls-r-1b", "train": ["nowhere.tsv"], "output_dir": str(tmp_path),
              "optimizer_8bit": True, "gradient_checkpointing": True}  # fmt: skip
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert main(["asr", "--config", str(tmp_path / "c.yaml"), "--estimate"]) == 0
    assert "962.5M parameters" in caplog.text and "pip install bitsandbytes" in caplog.text
    assert main(["asr", "--config", str(tmp_path / "c.yaml"), "--estimate", "--model", "some/name"]) == 2
    assert "not known before it is downloaded" in caplog.text


def test_an_outline_has_the_parameters_of_the_model(tmp_path, manifest):
    """Of a folder that lies here, whose weights are not read; LoRA included."""
    sizes = {**TINY_WAV2VEC2, "vocab_size": 12}
    transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**sizes)).save_pretrained(tmp_path / "hub")
    for changes in ({}, {"scratch": {}, "model": str(tmp_path / "hub")}):
        config = make_config(tmp_path, manifest, **changes)
        outline, model = outline_model(config, len(VOCABULARY)), build_model(config, VOCABULARY)
        shapes = [
            {name: (p.shape, p.requires_grad) for name, p in network.named_parameters()}
            for network in (outline, model)
        ]
        assert shapes[0] == shapes[1]
        assert next(iter(outline.lm_head.parameters())).is_meta


def test_fp16_trains_with_a_scale_that_finds_its_level(tmp_path, manifest):
    """The first scale is too large: those updates are left out, which is no failure."""
    run = make_trainer(make_config(tmp_path, manifest, fp16=True, loss_scale=2.0**30, max_steps=40))
    honest, reports = run.step, []
    run.step = lambda pending: reports.append(honest(pending)) or reports[-1]
    run.run()
    skipped = [report.skipped for report in reports]
    assert skipped[0] and not any(skipped[-10:])
    assert reports[-1].loss_scale < 2.0**30 and run.excluded == set() and run.watchdog.rollbacks == 0
    assert np.isfinite(run.log.rows[-1]["grad_norm"])
    again = make_trainer(make_config(tmp_path, manifest, fp16=True, loss_scale=2.0**30, max_steps=40))
    assert again.resume() and again.scaler.get_scale() == reports[-1].loss_scale


def test_fp16_that_underflows_is_named_where_plain_training_ends_in_nan(tmp_path, manifest):
    """Grad norm 0, then NaN, then no loss at all: AdamW divides 0 by an epsilon that float16 rounds to 0."""
    config = make_config(tmp_path, manifest, fp16=True, loss_scale=1e-7, max_steps=100)
    plain = build_model(config, VOCABULARY).lm_head.half()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3)
    states = torch.randn(1, 20, plain.in_features, generator=torch.Generator().manual_seed(0)).half()

    def plain_step():
        logits = plain(states).float().log_softmax(-1).transpose(0, 1)
        loss = torch.nn.functional.ctc_loss(
            logits, torch.tensor([[3, 4]]), torch.tensor([20]), torch.tensor([2])
        )
        optimizer.zero_grad()
        (loss * 1e-9).backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        return float(norm), float(loss.detach())

    assert plain_step()[0] == 0.0 and np.isnan(plain_step()[1])  # without the cure
    run = make_trainer(config)
    with pytest.raises(TrainingStopped, match="underflow float16"):
        run.run()
    assert run.position.step == config.patience
    assert find_nonfinite(run.model.named_parameters()) == []


def test_a_loss_scale_that_falls_without_end_is_named():
    watchdog = Watchdog()
    falling = [StepReport(step, 2.0, float("inf"), skipped=True, loss_scale=2.0**-step) for step in range(20)]
    findings = [watchdog.check(report) for report in falling]
    assert findings[:13] == [None] * 13  # 2^-13 is above 1e-4
    assert findings[14].action == "stop" and "Use bf16" in findings[14].message


def test_a_clip_of_nan_is_named_and_left_out_for_good(tmp_path, manifest, caplog):
    folder = tmp_path / "data"
    folder.mkdir()
    lines = manifest.read_text(encoding="utf-8").splitlines()[:5]
    for number in range(4):
        waveform, _ = soundfile.read(manifest.parent / f"{number}.wav", dtype="float32")
        if number == 2:
            waveform[500] = np.nan
        soundfile.write(folder / f"{number}.wav", waveform, 16_000, "FLOAT")
    (folder / "m.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = make_trainer(make_config(tmp_path, folder / "m.tsv", max_steps=8, prefetch=1))
    run.run()
    bad = str(folder / "2.wav")
    assert run.excluded == {bad} and bad in caplog.text
    assert run.position.step == 8 and run.position.rate == 1.0 and run.watchdog.rollbacks == 0
    assert sum("not finite. The update was skipped" in message for message in caplog.messages) <= 2
    again = make_trainer(make_config(tmp_path, folder / "m.tsv", max_steps=8))
    assert again.resume() and again.excluded == {bad}
    assert again.load([0, 2], 0).clips == (0,)


def test_ctrl_c_ends_a_real_run_with_130_and_a_checkpoint(tmp_path, manifest, monkeypatch):
    values = {"train": [str(manifest)], "output_dir": str(tmp_path / "run"), "scratch": TINY_WAV2VEC2,
              "bf16": False, "batch_s": 3.0, "max_steps": 50, "save_every": 100, "eval_every": 1000,
              "epochs": 1000}  # fmt: skip
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    honest = AsrTrainer.step

    def interrupted(self, pending):
        if self.position.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return honest(self, pending)

    monkeypatch.setattr(AsrTrainer, "step", interrupted)
    assert main(["asr", "--config", str(tmp_path / "c.yaml")]) == 130
    position = json.loads((tmp_path / "run" / "checkpoint" / "position.json").read_text())
    assert position["step"] == 3


CHANGES = [
    ({"seed": 1}, "seed was 0"),
    ({"batch_s": 4.0}, "batch_s was 3.0"),
    ({"lora_rank": 2}, "lora_rank"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_another_run_s_checkpoint_is_refused(tmp_path, manifest, change, words):
    if "lora_rank" in change:
        pytest.importorskip("peft")
    make_trainer(make_config(tmp_path, manifest, max_steps=1, save_every=1)).run()
    with pytest.raises(ValueError, match=words):
        make_trainer(make_config(tmp_path, manifest, **change)).run()


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_evaluation_in_batches_says_what_it_says_of_each_clip(tmp_path, manifest, norm):
    changes = {"feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer"}
    run = make_trainer(make_config(tmp_path, manifest, scratch={**TINY_WAV2VEC2, **changes}))
    samples, sizes = run.train_samples, []
    make = run.network.make_batch
    run.network.make_batch = lambda waveforms, labels: sizes.append(len(labels)) or make(waveforms, labels)
    together, alone = (
        evaluate_ctc(run.network, run.model, samples, VOCABULARY, batch_s, run.device)
        for batch_s in (60.0, 0.1)
    )
    assert together.hypotheses == alone.hypotheses and together.references == list(TEXTS)
    assert together.loss == pytest.approx(alone.loss, rel=1e-4)
    assert together.blank_ratio == pytest.approx(alone.blank_ratio, abs=1e-6)
    assert sizes == ([8] if norm == "layer" else [1] * 8) + [1] * 8


def test_fewer_clips_than_processes_is_told_before_training(tmp_path, manifest, monkeypatch, caplog):
    values = {"train": [str(manifest)], "output_dir": str(tmp_path / "run"), "scratch": TINY_WAV2VEC2}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    monkeypatch.setenv("WORLD_SIZE", "9")
    assert main(["asr", "--config", str(tmp_path / "c.yaml")]) == 1
    assert "8 sound clips for 9 processes" in caplog.text
    assert not (tmp_path / "run" / "checkpoint").exists()

"""`training asr` and `training evaluate` from the command line, on clips that are partly bad."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
yaml = pytest.importorskip("yaml")

from engine._distribution import install_command  # noqa: E402
from tests.reference.tiny_training import TINY_WAV2VEC2  # noqa: E402
from training.asr.log_mel_ctc import LogMelCtc, LogMelCtcConfig, save_checkpoint  # noqa: E402
from training.cli import COMMANDS, main  # noqa: E402

pytestmark = pytest.mark.usefixtures("light_training")


@pytest.fixture
def corpus(tmp_path):
    """Three sound clips, one missing, one corrupt, one of an hour, one with Russian text."""
    lines = ["path\ttext_de\tvoice"]
    for number, text in enumerate(["ja", "nein", "gut"]):
        tone = np.sin(np.arange(12_000) * 0.03 * (number + 1)) * 0.3
        soundfile.write(tmp_path / f"{number}.wav", tone, 16_000)
        lines.append(f"{number}.wav\t{text}\t{'ab'[number % 2]}")
    (tmp_path / "corrupt.flac").write_bytes(b"fLaC but no more")
    soundfile.write(tmp_path / "hour.flac", np.zeros(1_000 * 3600, np.int16), 1_000)
    for name, text in (
        ("missing.wav", "ja"),
        ("corrupt.flac", "ja"),
        ("hour.flac", "ja"),
        ("0.wav", "Привет"),
    ):
        lines.append(f"{name}\t{text}\ta")
    (tmp_path / "all.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "good.tsv").write_text("\n".join(lines[:4]) + "\n", encoding="utf-8")
    return tmp_path


def write_config(folder, **changes):
    values = {
        "train": [str(folder / "all.tsv")], "output_dir": str(folder / "run"), "scratch": TINY_WAV2VEC2,
        "bf16": False, "augment": 0.0, "mask_time": 0.0, "max_steps": 2,
        "epochs": 50, "save_every": 1, "warmup_steps": 5,
        "learning_rate": 3e-3, "head_learning_rate": 1e-2,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump({**values, **changes}), encoding="utf-8")
    return ["asr", "--config", str(folder / "config.yaml")]


def test_every_command_says_what_it_does(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


def test_bad_samples_are_named_and_left_out(corpus):
    assert main(write_config(corpus)) == 0
    report = (corpus / "run" / "doctor_training.txt").read_text(encoding="utf-8")
    assert report.startswith("4 of 7 samples")
    for words in ("missing audio file", "unreadable audio", "3600.0 s of audio", "vocabulary"):
        assert words in report


def test_bad_samples_stop_the_run_where_that_is_wished(corpus):
    assert main(write_config(corpus, on_bad_sample="stop")) == 1
    assert not (corpus / "run" / "checkpoint").exists()


def test_doctor_and_estimate_train_nothing(corpus):
    assert main([*write_config(corpus), "--doctor"]) == 1
    assert main([*write_config(corpus), "--estimate"]) == 0
    assert not (corpus / "run" / "checkpoint").exists()


@pytest.mark.parametrize("changes", [{"train": ["nowhere.tsv"]}, {"epochs": -1}])
def test_impossible_orders_end_with_code_two(corpus, changes):
    assert main(write_config(corpus, **changes)) == 2


def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint(corpus, monkeypatch):
    assert main(write_config(corpus, max_steps=1)) == 0
    before = (corpus / "run" / "checkpoint" / "state.pt").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.asr.trainer.torch.save", full)
    assert main(write_config(corpus, max_steps=3)) == 1
    assert (corpus / "run" / "checkpoint" / "state.pt").read_bytes() == before


def test_a_few_clips_are_learned_by_heart(corpus):
    torch.manual_seed(0)
    arguments = write_config(corpus, train=[str(corpus / "good.tsv")], max_steps=250)
    assert main([*arguments, "--overfit", "3"]) == 0


def test_evaluation_puts_models_side_by_side(corpus, capsys):
    for name in ("one", "two"):
        config = LogMelCtcConfig(hidden_size=16, n_layers=1, n_heads=2, intermediate_size=16, head_size=8)
        save_checkpoint(LogMelCtc(config), corpus / name)
    arguments = ["evaluate", str(corpus / "one"), str(corpus / "two"), "--data", str(corpus / "good.tsv")]
    arguments += ["--by", "voice", "--snr_db", "0", "--json", str(corpus / "f.json")]
    assert main([*arguments, "--transcripts", str(corpus / "t.tsv")]) == 0
    figures = json.loads((corpus / "f.json").read_text())["models"][str(corpus / "one")]
    assert set(figures) == {"clean", "0 dB"} and set(figures["clean"]["greedy"]["voice"]) == {"a", "b"}
    assert len((corpus / "t.tsv").read_text().splitlines()) == 4
    assert "two" in capsys.readouterr().out


def test_evaluation_names_a_missing_column(corpus):
    save_checkpoint(
        LogMelCtc(LogMelCtcConfig(hidden_size=16, n_layers=1, n_heads=2, intermediate_size=16)), corpus / "m"
    )
    assert main(["evaluate", str(corpus / "m"), "--data", str(corpus / "good.tsv"), "--by", "dialect"]) == 2


def test_a_missing_extra_names_its_mend():
    code = "import sys; sys.modules['torch'] = None; from training.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "asr", "--config", "asr.yaml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "torch is not installed" in done.stderr and install_command("train") in done.stderr


@pytest.mark.parametrize("command", ["asr", "mt"])
@pytest.mark.parametrize("content", ["a: `b`", "- a\n- b", "only words"])
def test_a_configuration_that_is_none(command, content, tmp_path, caplog):
    (tmp_path / "c.yaml").write_text(content, encoding="utf-8")
    assert main([command, "--config", str(tmp_path / "c.yaml")]) != 0
    assert "c.yaml" in caplog.text and "Traceback" not in caplog.text

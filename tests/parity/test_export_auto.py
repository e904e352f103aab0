"""`engine-export ctc --precision auto`: what is tried, what is taken, and that nothing is left half-done."""

from __future__ import annotations

import json
import signal
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnx")

import engine  # noqa: E402
from engine.acoustic.model import compute_log_softmax  # noqa: E402
from engine.bundle.folder import open_bundle  # noqa: E402
from engine.kernels.vector.levels import has_vector_kernels  # noqa: E402
from export.acoustic import export as acoustic  # noqa: E402
from export.acoustic import fastest, source  # noqa: E402
from export.acoustic.pretrained import export_pretrained, load_pretrained  # noqa: E402
from export.acoustic.source import ExportOptions  # noqa: E402
from export.acoustic.wav2vec2 import run_torch  # noqa: E402
from export.cli import main  # noqa: E402
from export.errors import ExportError  # noqa: E402
from export.verification.audio_cases import speech_like  # noqa: E402
from export.verification.trials import Trial, explain_refusals, find_fastest, trial_table  # noqa: E402
from tests.parity.test_export_wav2vec2 import LAYER_NORM, SIZES, save_checkpoint  # noqa: E402

pytestmark = pytest.mark.usefixtures("short_cases")

XLSR = "wav2vec2-large-lv60, XLSR-53, XLS-R"
AUTO = ExportOptions(precision="auto", batches=False)
GAIN = 200.0
LIMIT = 0.95  # int8 reaches .973 on the plain model
FRAGILE_LIMIT = 0.88  # .81 on the fragile one, and .93 without its feed-forward blocks
KERNEL_SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "conv_dim": [32] * 7}
FIGURES = ("agreement", "error", "speed")


def trials_of(bundle: Path) -> list[dict[str, Any]]:
    config = open_bundle(bundle).manifest.acoustic
    assert config is not None
    return list(config.figures["trials"])


def make_xlsr(fragile: bool = False) -> Any:
    """A small model of XLS-R's form, with sizes that the kernels compute.

    Args:
        fragile: half of the units of each feed-forward block are silent but in a few frames, where they are
            hundreds of times as large as the others: one scale for all frames then loses the others.
    """
    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(**{**SIZES, **LAYER_NORM, **KERNEL_SIZES})
    model = transformers.Wav2Vec2ForCTC(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.normal_(1.0, 0.3)
        for layer in model.wav2vec2.encoder.layers if fragile else ():
            into = layer.feed_forward.intermediate_dense
            rare = slice(0, into.out_features // 2)
            into.weight[rare] *= GAIN
            into.bias[rare] = -2.5 * into.weight[rare].norm(dim=1)
            layer.feed_forward.output_dense.weight[:, into.out_features // 2 :] *= 10
    return model


def save_xlsr(folder: Path, fragile: bool = False) -> Path:
    save_checkpoint(folder, XLSR)
    make_xlsr(fragile).save_pretrained(folder)
    return folder


def test_the_fastest_that_passes_is_written_with_all_that_was_tried(tmp_path: Path) -> None:
    checkpoint, bundle = save_xlsr(tmp_path / "checkpoint"), tmp_path / "bundle"
    report = export_pretrained(str(checkpoint), bundle, replace(AUTO, batches=True, min_agreement=LIMIT))
    trials = trials_of(bundle)
    assert [trial["name"] for trial in trials] == [fastest.ALL, fastest.LINEAR, fastest.FLOAT]
    assert [trial["precision"] for trial in trials] == ["int8", "int8", "fp32"]
    assert all(trial["refused"] == "" and None not in (trial[key] for key in FIGURES) for trial in trials)
    assert find_fastest([Trial(**trial) for trial in trials]) == [t["taken"] for t in trials].index(True)
    assert sum(trial["taken"] for trial in trials) == 1
    taken = next(trial for trial in trials if trial["taken"])
    config = open_bundle(bundle).manifest.acoustic
    assert config is not None and config.precision == taken["precision"]
    assert report.batch_agreement
    card = (bundle / "README.md").read_text()
    assert "Tried by `--precision auto`" in card and f"| {fastest.LINEAR} |" in card and "| taken |" in card
    model = engine.load(str(bundle), device="cpu", threads=1)
    features = model.compute_features(speech_like(20_000, 16_000))
    want = compute_log_softmax(run_torch(make_xlsr(), features[None])[0])
    got = model.compute_log_probs(features)
    assert np.linalg.norm(got - want) < 0.1 * np.linalg.norm(want)


@pytest.mark.skipif(not has_vector_kernels(), reason="no vector kernels at this instruction set level")
def test_a_graph_is_timed_by_what_computes_it_here(tmp_path: Path) -> None:
    checkpoint = save_xlsr(tmp_path / "checkpoint")
    options = replace(AUTO, min_agreement=0.5)
    export_pretrained(str(checkpoint), tmp_path / "bundle", options)
    found = {trial["name"]: trial["computed_by"] for trial in trials_of(tmp_path / "bundle")}
    assert found == {
        fastest.ALL: "onnxruntime",
        fastest.LINEAR: "onnxruntime",
        fastest.FLOAT: "onnxruntime",
    } | ({fastest.ALL: "kernels", fastest.LINEAR: "kernels"})


def test_int8_that_fails_gives_way_to_a_less_aggressive_graph(tmp_path: Path) -> None:
    checkpoint, bundle = save_xlsr(tmp_path / "checkpoint", fragile=True), tmp_path / "bundle"
    export_pretrained(str(checkpoint), bundle, replace(AUTO, min_agreement=FRAGILE_LIMIT))
    trials = {trial["name"]: trial for trial in trials_of(bundle)}
    assert list(trials) == [fastest.ALL, fastest.LINEAR, fastest.SEARCHED, fastest.FLOAT]
    assert "argmax agreement" in trials[fastest.ALL]["refused"]
    assert not trials[fastest.ALL]["taken"]
    assert trials[fastest.SEARCHED]["refused"] == "" == trials[fastest.FLOAT]["refused"]
    assert trials[fastest.SEARCHED]["error"] < trials[fastest.ALL]["error"] / 2
    taken = next(trial for trial in trials.values() if trial["taken"])
    assert taken["name"] in (fastest.SEARCHED, fastest.FLOAT)
    card = (bundle / "README.md").read_text()
    assert "argmax agreement" in card
    command = ["verify", str(checkpoint), str(bundle), "--no-batches", "--allow-slower"]
    assert main([*command, "--min-agreement", str(FRAGILE_LIMIT)]) == 0


def test_where_nothing_passes_every_reason_is_in_one_error(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(ExportError, match=r"no precision that passes.*int8: .*below 1\.01.*fp32: .*--keep"):
        export_pretrained(str(checkpoint), tmp_path / "out", replace(AUTO, min_agreement=1.01))
    assert not (tmp_path / "out").exists()


def test_a_model_beyond_one_onnx_file_is_not_tried_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = save_xlsr(tmp_path / "checkpoint")
    n_parameters = load_pretrained(str(checkpoint)).n_parameters
    monkeypatch.setattr(source, "MAX_PARAMETERS", n_parameters - 1)
    export_pretrained(str(checkpoint), tmp_path / "bundle", replace(AUTO, min_agreement=0.5))
    trials = trials_of(tmp_path / "bundle")
    assert "one ONNX file" in trials[-1]["refused"] and trials[-1]["name"] == fastest.FLOAT
    assert next(trial for trial in trials if trial["taken"])["precision"] == "int8"


def test_an_interrupt_between_two_trials_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = save_checkpoint(tmp_path / "checkpoint")
    (tmp_path / "bundles").mkdir()
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    measure, calls, held = fastest.measure_graph, [], []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            held.extend((tmp_path / "scratch").glob("export-*/*.onnx"))
            signal.raise_signal(signal.SIGINT)
        return measure(*arguments)

    monkeypatch.setattr(fastest, "measure_graph", interrupted)
    out = tmp_path / "bundles" / "mine"
    command = ["ctc", str(checkpoint), str(out), "--precision", "auto", "--min-agreement", "0.5"]
    assert main(command) == 130
    assert capsys.readouterr().err.strip().endswith("engine-export: interrupted; nothing was written")
    assert {path.name for path in held} == {"float32.onnx", "0.onnx"}  # the first trial's graph was there
    assert list(out.parent.iterdir()) == [] == list((tmp_path / "scratch").iterdir())


def test_auto_is_offered_for_checkpoints_in_hugging_face_form_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["log-mel", str(tmp_path), str(tmp_path / "out"), "--precision", "auto"])
    assert "invalid choice: 'auto'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["ctc", "--help"])
    assert "takes the fastest that passes" in " ".join(capsys.readouterr().out.split())
    source = load_pretrained(str(save_checkpoint(tmp_path / "checkpoint")))
    with pytest.raises(ExportError, match=r"--precision auto .*fp32 or fp16 or int8.*engine-export ctc"):
        acoustic.export_acoustic(source, tmp_path / "out", ExportOptions(precision="auto"))


def trial(name: str, speed: float, error: float, refused: str = "") -> Trial:
    return Trial(name, "int8", agreement=0.99, error=error, speed=speed, refused=refused)


@pytest.mark.parametrize(
    ("trials", "taken"),
    [
        ([trial("a", 2.0, 0.05), trial("b", 1.5, 0.01), trial("c", 1.0, 0.0)], 0),
        ([trial("a", 2.0, 0.05), trial("b", 1.96, 0.01), trial("c", 1.0, 0.0)], 1),  # as fast, more exact
        ([trial("a", 2.0, 0.05), trial("b", 1.92, 0.04), trial("c", 1.85, 0.0)], 1),  # c is 8 % slower
        ([trial("a", 2.0, 0.05, "too wrong"), trial("b", 0.8, 0.01), trial("c", 1.0, 0.0)], 2),
        ([trial("a", 2.0, 0.05, "too wrong"), trial("b", 3.0, 0.01, "too wrong")], None),
        ([], None),
    ],
)
def test_the_fastest_that_passed_is_found(trials: list[Trial], taken: int | None) -> None:
    assert find_fastest(trials) == taken


def test_trials_are_shown_with_their_reasons() -> None:
    trials = [
        trial("a", 2.0, 0.05, "too | wrong"),
        replace(trial("b", 0.8, 0.01), taken=True),
        Trial("c", "fp32"),
    ]
    lines = trial_table(trials)
    assert "| a | onnxruntime | 99.00 % | 0.05 | - | 2.00 | too / wrong |" in lines
    assert "| b | onnxruntime | 99.00 % | 0.01 | - | 0.80 | taken |" in lines
    assert "| c | onnxruntime | - | - | - | - | passed, not the fastest |" in lines
    assert trial_table([]) == []
    assert explain_refusals(trials[:1]) == "a: too | wrong"
    assert json.dumps([vars(each) for each in trials])

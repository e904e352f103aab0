"""The log-mel CTC model: its parts, its checkpoint, Whisper's weights, and a run of a few steps."""

import argparse
import dataclasses
import json
import struct

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")

from engine.acoustic.features import compute_log_mel as compute_runtime_log_mel  # noqa: E402
from engine.bundle.folder import FeatureConfig  # noqa: E402
from training.asr.log_mel_ctc import LogMelCtc, LogMelCtcConfig, load_checkpoint, save_checkpoint  # noqa: E402
from training.cli import main  # noqa: E402
from training.common.mel import compute_log_mel, quicken  # noqa: E402
from training.whisper import command as from_whisper  # noqa: E402
from training.whisper.command import group_by_length  # noqa: E402
from training.whisper.states import Clip, compute_states  # noqa: E402
from training.whisper.weights import (  # noqa: E402
    WeightsError,
    load_whisper_encoder,
    read_ctranslate2,
    set_sinks,
)

TINY = LogMelCtcConfig(hidden_size=16, n_layers=2, n_heads=2, intermediate_size=32, head_size=8, n_sinks=5)


def tiny_variables(layers=2, size=16, inner=32):
    """Return a Whisper encoder's variables as CTranslate2 names and shapes them."""
    rng = np.random.default_rng(0)
    shapes = {"conv1": (size, 80, 3), "conv2": (size, size, 3)}
    for index in range(layers):
        start = f"layer_{index}"
        shapes |= {
            f"{start}/self_attention/linear_0": (3 * size, size),
            f"{start}/self_attention/linear_1": (size, size),
        }
        shapes |= {f"{start}/ffn/linear_0": (inner, size), f"{start}/ffn/linear_1": (size, inner)}
    variables = {}
    for name, shape in shapes.items():
        variables[f"encoder/{name}/weight"] = rng.standard_normal(shape) * 0.2
        variables[f"encoder/{name}/bias"] = rng.standard_normal(shape[0]) * 0.1
    norms = [f"layer_{i}/{part}/layer_norm" for i in range(layers) for part in ("self_attention", "ffn")]
    for name in (*norms, "layer_norm"):
        variables[f"encoder/{name}/gamma"], variables[f"encoder/{name}/beta"] = np.ones(size), np.zeros(size)
    return {name: array.astype(np.float16) for name, array in variables.items()}


def write_ctranslate2(path, variables):
    def string(text):
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    kinds = {"float16": 4, "int8": 1, "float32": 0}
    content = struct.pack("<I", 6) + string("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, array in variables.items():
        content += string(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        content += struct.pack("<BI", kinds[str(array.dtype)], array.nbytes) + array.tobytes()
    path.write_bytes(content + struct.pack("<I", 0))
    return path


@pytest.mark.parametrize("n_mels", [80, 128])
def test_features_are_the_runtimes_own(n_mels):
    waveform = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * 0.1
    expected = compute_runtime_log_mel(waveform, FeatureConfig(kind="log_mel", n_mels=n_mels))
    got = compute_log_mel(torch.from_numpy(waveform), n_mels).numpy()
    assert got.shape == (n_mels, 100)
    assert np.abs(np.asarray(expected).reshape(got.shape) - got).max() < 2e-3


@pytest.mark.parametrize("n_mels", [80, 128])
def test_features_are_transformers_own(n_mels):
    whisper = pytest.importorskip("transformers").WhisperFeatureExtractor(n_mels)
    waveform = np.random.default_rng(0).standard_normal(480_000).astype(np.float32) * 0.1
    expected = whisper(waveform, sampling_rate=16_000, return_tensors="np").input_features[0]
    assert np.abs(compute_log_mel(torch.from_numpy(waveform), n_mels).numpy() - expected).max() < 1e-3


def test_quicken_keeps_pitch_and_shortens_time():
    features = torch.randn(80, 90)
    assert quicken(features, 1.5).shape == (80, 60)
    assert torch.allclose(quicken(features, 1.0), features)


CHANGES = (
    {},
    {"head": "transformer", "head_size": 64},
    {"mix_layers": 2},
    {"n_sinks": 0},
    {"normalize_states": True},
)


@pytest.mark.parametrize("changes", CHANGES)
def test_a_checkpoint_comes_back_as_it_was(tmp_path, changes):
    model = LogMelCtc(dataclasses.replace(TINY, **changes)).eval()
    save_checkpoint(model, tmp_path, {"cer": 1.0})
    again = load_checkpoint(tmp_path)
    features = torch.randn(1, 80, 40)
    assert again.config == model.config
    assert torch.equal(again(features), model(features))
    assert again(features).shape == (1, 20, 32)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", "vocab.json"}


def test_another_architecture_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "Wav2Vec2ForCTC"}))
    with pytest.raises(ValueError, match="LogMelCTC"):
        load_checkpoint(tmp_path)


def test_a_sink_weighs_as_much_as_the_frames_it_stands_for():
    torch.manual_seed(0)
    attention = LogMelCtc(TINY).layers[0].attention
    hidden, silence = torch.randn(1, 6, 16), torch.randn(1, 1, 16)
    with torch.no_grad():
        attention.sink_keys.copy_(attention.k_proj(silence)[0].expand(5, -1))
        attention.sink_values.copy_(attention.v_proj(silence)[0].expand(5, -1))
        attention.sink_bias.fill_(float(np.log(8)))  # 5 sinks of 8 frames each
        with_sinks = attention(hidden)
        with_frames = attention(torch.cat([silence.expand(-1, 40, -1), hidden], 1), use_sinks=False)[:, 40:]
    assert torch.allclose(with_sinks, with_frames, atol=1e-5)


def test_whispers_weights_land_where_they_belong(tmp_path):
    variables = tiny_variables()
    write_ctranslate2(tmp_path / "model.bin", variables)
    model = LogMelCtc(TINY)
    load_whisper_encoder(model, tmp_path)
    joint = torch.from_numpy(variables["encoder/layer_1/self_attention/linear_0/weight"].astype(np.float32))
    attention = model.layers[1].attention
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    assert torch.equal(torch.cat([part.weight for part in parts]), joint)
    set_sinks(model, [torch.randn(16_000)])
    assert attention.sink_keys.abs().sum() > 0
    assert float(attention.sink_bias[0].detach().exp()) == pytest.approx((1500 - 350) // 5)


def test_weights_cut_off_missing_or_quantised_are_named(tmp_path):
    path = write_ctranslate2(tmp_path / "model.bin", tiny_variables())
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(WeightsError, match="truncated"):
        read_ctranslate2(path)
    write_ctranslate2(path, {"encoder/conv1/weight": np.zeros((16, 80, 3), np.int8)})
    with pytest.raises(WeightsError, match="int8"):
        load_whisper_encoder(LogMelCtc(TINY), path)


def test_stored_states_continue_to_the_same_logits():
    torch.manual_seed(0)
    model = LogMelCtc(TINY).eval()
    features = torch.randn(80, 60)
    (clip,) = compute_states(model, [(features, [3, 4], 30)], n_frozen=1)
    with torch.no_grad():
        expected = model(features[None])
        got = model.classify(model.run_layers(clip.states[None].float(), 1))
    assert torch.allclose(got, expected, atol=2e-2)  # the states are kept in float16


def test_a_run_of_a_few_steps_leaves_a_checkpoint(tmp_path, monkeypatch):
    lines = ["path\ttext_de"]
    for number, text in enumerate(["ja", "nein", "gut", "so"]):
        samples = np.sin(np.arange(12_000) * 0.05 * (number + 1)) * 0.2
        soundfile.write(tmp_path / f"{number}.wav", samples, 16_000)
        lines.append(f"{number}.wav\t{text}")
    manifest = tmp_path / "manifest.tsv"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_ctranslate2(tmp_path / "model.bin", tiny_variables())
    monkeypatch.setattr(from_whisper, "LogMelCtcConfig", lambda **sizes: dataclasses.replace(TINY, **sizes))
    arguments = [
        "--whisper",
        tmp_path,
        "--train",
        manifest,
        "--eval",
        manifest,
        "--output_dir",
        tmp_path / "run",
    ]
    arguments += ["--n_frozen", 1, "--steps", 4, "--eval_every", 2, "--batch_s", 4, "--n_sinks", 5]
    assert main(["from-whisper", *map(str, arguments)]) == 0
    assert load_checkpoint(tmp_path / "run" / "best").config.n_sinks == 5
    assert len((tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()) == 2
    arguments[arguments.index("--steps") + 1] = 6  # a longer run continues from where this one ended
    assert main(["from-whisper", *map(str, arguments)]) == 0
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "evaluations.jsonl").open()]
    assert steps == [2, 4, 6]
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["progress"]["step"] == 6 and "average" in state


def test_groups_of_similar_length_hold_every_clip_and_little_padding():
    lengths = [200, 180, 600, 210, 190, 205, 580, 100]
    clips = [Clip(torch.zeros(length, 4), [3]) for length in lengths]
    groups = group_by_length(clips)
    sizes = [[len(clip.states) for clip in group] for group in groups]
    assert sorted(size for group in sizes for size in group) == sorted(lengths)
    assert all(max(group) * len(group) <= 1.15 * sum(group) for group in sizes)
    assert len(groups) == 3 and group_by_length([]) == []


def test_options_have_defaults_for_everything_but_the_data():
    parser = argparse.ArgumentParser()
    from_whisper.add_arguments(parser)
    needed = ["--whisper", "w", "--train", "t", "--eval", "e", "--output_dir", "o"]
    assert parser.parse_args(needed).n_frozen == 4

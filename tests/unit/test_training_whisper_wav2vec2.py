"""The Wav2Vec2 form of a Whisper encoder: the same layers, and a front end distilled without labels."""

import dataclasses

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from training.asr.log_mel_ctc import LogMelCtc, LogMelCtcConfig  # noqa: E402
from training.cli import main  # noqa: E402
from training.common.data import Sample  # noqa: E402
from training.common.mel import compute_log_mel  # noqa: E402
from training.whisper.wav2vec2 import (  # noqa: E402
    Teacher,
    build_wav2vec2,
    compute_stem,
    distil_step,
    gabor_filters,
    run_encoder,
)
from training.whisper.wav2vec2_distillation import DistilConfig, Distiller  # noqa: E402
from training.whisper.weights import WeightsError, load_whisper_encoder, whisper_sizes  # noqa: E402

SIZES = {"d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 48}


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory):
    """A tiny random Whisper as transformers saves it, its norms and biases away from their defaults."""
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        **SIZES, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, vocab_size=64,
        num_mel_bins=80, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        max_source_positions=1500,
    )  # fmt: skip
    model = transformers.WhisperModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if "embed_positions" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    folder = tmp_path_factory.mktemp("whisper")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whisper(whisper_folder):
    model = LogMelCtc(LogMelCtcConfig(**whisper_sizes(whisper_folder))).eval()
    load_whisper_encoder(model, whisper_folder)
    return model


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    lines = ["path\ttext_de"]
    for number in range(6):
        times = np.arange(12_000 + 400 * number) / 16_000
        sweep = np.sin(2 * np.pi * (150 + 300 * number + 900 * times) * times) * np.hanning(times.size)
        soundfile.write(
            folder / f"{number}.wav", 0.2 * sweep + 0.005 * rng.standard_normal(times.size), 16_000
        )
        lines.append(f"{number}.wav\tja")
    (folder / "m.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "m.tsv"


def test_a_transformers_folder_gives_transformers_own_states(whisper, whisper_folder):
    reference = transformers.WhisperModel.from_pretrained(whisper_folder).eval().encoder
    features = compute_log_mel(torch.randn(1, 480_000, generator=torch.Generator().manual_seed(1)) * 0.1)
    with torch.no_grad():
        expected, found = reference(features).last_hidden_state, whisper.encode(features)
    assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def test_the_layers_in_wav2vec2_reproduce_whispers_encoder(whisper):
    student = build_wav2vec2(whisper).eval()
    features = torch.randn(2, 80, 120, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        stem = whisper.stem(features)
        expected = whisper.run_layers(stem, 0)
        found = run_encoder(student, stem)  # the positional convolution starts silent
        in_transformers = student.wav2vec2.encoder(stem.clone()).last_hidden_state
    for states in (found, in_transformers):
        assert float((states - expected).norm() / expected.norm()) < 1e-5


def test_student_and_teacher_frames_lie_on_each_other(whisper):
    """A click that moves by one frame moves the response of both by one frame, at the same place."""
    student = build_wav2vec2(whisper).eval()
    teacher = Teacher.of(whisper)
    peaks = []
    for place in (9000, 9000 + 10 * 320):
        waveform = torch.randn(1, 24_000, generator=torch.Generator().manual_seed(3)) * 1e-3
        waveform[0, place] = 50.0
        quiet = waveform.clone()
        quiet[0, place] = 0.0
        with torch.no_grad():
            n_frames = compute_stem(student, waveform).shape[1]
            changes = (
                (compute_stem(student, waveform) - compute_stem(student, quiet)).norm(dim=-1)[0],
                (teacher(waveform, n_frames)[0] - teacher(quiet, n_frames)[0]).norm(dim=-1)[0],
            )
        # log-mel is relative to the loudest band, so the click changes all; its own frames change most
        peaks.append([_centre(change > 0.6 * change.max()) for change in changes])
    assert peaks[1][0] - peaks[0][0] == pytest.approx(10, abs=0.5)
    assert all(abs(student_at - teacher_at) < 1.0 for student_at, teacher_at in peaks)


def _centre(chosen):
    return float(chosen.nonzero().float().mean())


def test_the_first_filters_are_spread_over_the_mel_scale():
    filters = gabor_filters(32)
    spectrum = torch.fft.rfft(filters, 16_000, dim=1).abs()
    peaks = spectrum.argmax(1)[::2]  # one of each pair, in Hz
    assert filters.shape == (32, 400) and peaks[0] < 200 and peaks[-1] > 7000
    assert bool((peaks[1:] > peaks[:-1]).all())
    assert torch.allclose(filters.norm(dim=1), torch.ones(32), atol=1e-5)


def test_distillation_needs_no_labels_and_brings_the_stem_closer(whisper, clips):
    samples = [Sample(clips.parent / f"{number}.wav", "") for number in range(6)]
    config = DistilConfig(stem_steps=60, position_steps=40, batch_s=4.0, log_every=10)
    distiller = Distiller(config, whisper, samples, torch.device("cpu"))
    before = distiller.measure(samples[:3])
    distiller.run()
    after = distiller.measure(samples[:3])
    assert after["stem"] < 0.5 * before["stem"]
    assert after["states"] < before["states"]
    fades = [row["fade"] for row in distiller.history]
    assert fades[0] == -1.0 and fades[-1] == 0.0  # Whisper's positions are gone in the end


def test_losses_send_gradients_to_everything_that_has_to_learn(whisper):
    student = build_wav2vec2(whisper)
    waveforms = torch.randn(1, 8000)
    distil_step(student, Teacher.of(whisper), waveforms, None).backward()
    assert student.wav2vec2.feature_extractor.conv_layers[0].conv.weight.grad.abs().sum() > 0
    assert student.wav2vec2.encoder.layers[0].attention.q_proj.weight.grad is None
    distil_step(student, Teacher.of(whisper), waveforms, 0.5).backward()
    convolution = student.wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight
    assert convolution.original0.grad.abs().sum() > 0  # a silent convolution can wake up


def test_the_command_leaves_a_folder_that_training_asr_takes(whisper_folder, clips, tmp_path):
    arguments = ["from-whisper", "--form", "wav2vec2", "--whisper", whisper_folder, "--train", clips]
    arguments += ["--eval", clips, "--output_dir", tmp_path, "--stem_steps", 3, "--position_steps", 3]
    assert main([*map(str, arguments), "--n_sinks", "0", "--batch_s", "4", "--device", "cpu"]) == 0
    model = transformers.Wav2Vec2ForCTC.from_pretrained(tmp_path / "model")
    assert model.config.do_stable_layer_norm and model.config.num_hidden_layers == 3
    assert (tmp_path / "distillation.json").is_file()


def test_the_log_mel_form_asks_for_real_speech_and_a_missing_whisper_is_named(clips, tmp_path):
    arguments = [
        "from-whisper",
        "--whisper",
        str(tmp_path),
        "--train",
        str(clips),
        "--output_dir",
        str(tmp_path),
    ]
    assert main(arguments) == 2
    assert main([*arguments, "--eval", str(clips)]) == 2
    with pytest.raises(WeightsError, match="transformers folder"):
        whisper_sizes(tmp_path)


def test_sizes_that_do_not_fit_are_refused(whisper_folder):
    sizes = {**whisper_sizes(whisper_folder), "n_layers": 2}
    with pytest.raises(WeightsError, match="other sizes"):
        load_whisper_encoder(LogMelCtc(dataclasses.replace(LogMelCtcConfig(), **sizes)), whisper_folder)

"""Mel features of other projects, 80 bands, 25 ms every 10 ms: `mel_features.py --system librosa`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from peer_worker import Loaded, Peer, Run, serve

SAMPLE_RATE, N_FFT, HOP_LENGTH, N_MELS = 16_000, 400, 160, 80
FLOOR, RANGE = 1e-10, 8  # of Whisper's log-mel: the smallest power, and how far below the peak it goes


def open_transformers() -> Run:
    """Whisper's extractor, its numpy form."""
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor()
    return lambda inputs: {
        "features": extractor._np_extract_fbank_features(inputs["waveform"][None], "cpu")[0]
    }


def open_librosa() -> Run:
    """librosa's mel spectrogram and a logarithm; scaled as Whisper does after the clock has stopped."""
    import librosa

    settings = {"sr": SAMPLE_RATE, "n_fft": N_FFT, "hop_length": HOP_LENGTH, "n_mels": N_MELS}

    def run(inputs: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
        power = librosa.feature.melspectrogram(y=inputs["waveform"], **settings)
        logs = np.log10(np.maximum(power, FLOOR))[:, :-1]
        return lambda: {"features": (np.maximum(logs, logs.max() - RANGE) + 4) / 4}

    return run


def open_asrfront() -> Run:
    """asrfront's Whisper features."""
    from asrfront import whisper

    return lambda inputs: {"features": np.asarray(whisper.log_mel(inputs["waveform"], pad_or_trim=False))}


def open_kaldi() -> Run:
    """kaldi-native-fbank with its defaults, no dither."""
    import kaldi_native_fbank as knf

    settings = knf.FbankOptions()
    settings.frame_opts.dither, settings.mel_opts.num_bins = 0.0, N_MELS

    def run(inputs: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
        online = knf.OnlineFbank(settings)
        online.accept_waveform(SAMPLE_RATE, inputs["waveform"])
        online.input_finished()
        n_frames = online.num_frames_ready
        return lambda: {"features": np.stack([online.get_frame(i) for i in range(n_frames)], axis=1)}

    return run


SYSTEMS = {
    "transformers": ("log-mel, transformers", open_transformers),
    "librosa": ("log-mel, librosa", open_librosa),
    "asrfront": ("log-mel, asrfront", open_asrfront),
    "kaldi-native-fbank": ("fbank, kaldi-native-fbank", open_kaldi),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of this peer."""
    parser.add_argument("--system", choices=list(SYSTEMS), required=True)


def load(options: argparse.Namespace) -> Loaded:
    """Inputs waveform float32 [n_samples] at 16 kHz; outputs features [n_mels, n_frames]."""
    name, make = SYSTEMS[options.system]
    return Loaded({name: make()}, {options.system: version(options.system)})


def names(options: argparse.Namespace) -> list[str]:
    """The one system."""
    return [SYSTEMS[options.system][0]]


if __name__ == "__main__":
    serve(Peer("mel-features", "features", f"numpy {np.__version__}", configure, names, load))

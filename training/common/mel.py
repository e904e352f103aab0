"""Whisper's log-mel features in torch, for training; a test compares them with the runtime's own kernel."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional

SAMPLE_RATE, N_FFT, HOP_LENGTH = 16_000, 400, 160
N_MELS = 80  # large-v3 and large-v3-turbo have 128


@functools.lru_cache(maxsize=4)
def mel_filters(n_mels: int = N_MELS) -> Tensor:
    """Return Slaney's triangular filters, float32 [n_mels, n_fft / 2 + 1], 0 to 8 kHz, of equal area."""
    edges = _mel_to_hz(
        torch.linspace(0.0, float(_hz_to_mel(torch.tensor(8000.0))), n_mels + 2, dtype=torch.float64)
    )
    bins = torch.linspace(0.0, SAMPLE_RATE / 2, N_FFT // 2 + 1, dtype=torch.float64)
    rising = (bins[None, :] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins[None, :]) / (edges[2:] - edges[1:-1])[:, None]
    return (torch.minimum(rising, falling).clamp(min=0.0) * (2.0 / (edges[2:] - edges[:-2]))[:, None]).float()


def _hz_to_mel(hz: Tensor) -> Tensor:
    above = 15.0 + 27.0 * torch.log(hz.clamp(min=1e-9) / 1000.0) / torch.log(torch.tensor(6.4))
    return torch.where(hz < 1000.0, 3.0 * hz / 200.0, above)


def _mel_to_hz(mel: Tensor) -> Tensor:
    above = 1000.0 * torch.exp((mel - 15.0) * torch.log(torch.tensor(6.4, dtype=torch.float64)) / 27.0)
    return torch.where(mel < 15.0, 200.0 * mel / 3.0, above)


def compute_log_mel(waveforms: Tensor, n_mels: int = N_MELS) -> Tensor:
    """Compute log-mel features.

    Args:
        waveforms: float32 [..., n_samples], 16 kHz, with the tail silence that the model needs.
        n_mels: bands; 80 in most of Whisper's sizes, 128 in large-v3.
    Returns:
        float32 [..., n_mels, n_samples // 160]: log10 of the mel power, at most 8 below the utterance's
        peak, plus 4, divided by 4.
    Source: Whisper audio.py convention; differs: no 30 s padding.
    """
    window = torch.hann_window(N_FFT, device=waveforms.device)
    spectrum = torch.stft(waveforms, N_FFT, HOP_LENGTH, window=window, return_complex=True)[..., :-1]
    logs = (mel_filters(n_mels).to(waveforms.device) @ spectrum.abs().square()).clamp(min=1e-10).log10()
    return (torch.maximum(logs, logs.amax((-1, -2), keepdim=True) - 8.0) + 4.0) / 4.0


def quicken(features: Tensor, factor: float) -> Tensor:
    """Play log-mel features `factor` times faster, pitch and resonances unchanged.

    Args:
        features: float32 [n_mels, n_frames].
        factor: 1.5 makes 100 frames 66.
    """
    n_frames = max(1, round(features.shape[1] / factor))
    return functional.interpolate(features[None], size=n_frames, mode="linear")[0]

"""What audio may be: the bounds on files and arrays, and the checks that state them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine.audio.channels import CANCELLED_NOTE, mix_channels
from engine.errors import (
    AudioLimitError,
    AudioShapeError,
    AudioTooShortError,
    AudioValueError,
    AudioWarning,
)

SAMPLE_RATE: Final = 16_000  # Hz, what every acoustic model here is trained on
MAX_PEAK: Final = 64.0  # float samples beyond this are integers that nobody scaled

Waveform = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AudioLimits:
    """Bounds that hostile or broken audio may not pass; checked while decoding.

    Attributes:
        min_duration_s: 25 ms is the first frame of a wav2vec 2.0 encoder (400 samples).
        max_duration_s: seconds of audio; 4 h take 920 MB as float32 at 16 kHz. Channels that are kept
            apart may be twice as long together.
        max_channels: of a file or array.
        min_sample_rate, max_sample_rate: Hz, as the file or the caller states it.
        max_file_bytes: of bytes and file objects, which are held in memory.
        max_decoded_samples: over all channels at the source's rate; bounds the work that
            a small compressed file can ask for (4 h of 8 channels at 48 kHz).
    """

    min_duration_s: float = 0.025
    max_duration_s: float = 4 * 3600.0
    max_channels: int = 32
    min_sample_rate: int = 1_000
    max_sample_rate: int = 384_000
    max_file_bytes: int = 2 << 30
    max_decoded_samples: int = 6_000_000_000


def downmix(samples: NDArray[Any], limits: AudioLimits | None = None) -> Waveform:
    """Scale an array to [-1, 1] and average its channels.

    Args:
        samples: as load_audio takes them.
        limits: for the number of channels.
    Returns:
        float32 [n_samples] at the array's own rate; may be empty. Where the channels cancel each
        other, the loudest one instead of their mean, and an AudioWarning says so.
    Raises:
        AudioShapeError: no array, wrong dtype, more than two axes, too many channels.
        AudioValueError: samples that are not finite, or floats far outside [-1, 1].
    """
    (waveform,), notes = read_array(samples, limits)
    for note in notes:
        warnings.warn(AudioWarning(f"the array: {note}"), stacklevel=2)
    return waveform


def read_array(
    samples: NDArray[Any], limits: AudioLimits | None = None, separate: bool = False
) -> tuple[tuple[Waveform, ...], tuple[str, ...]]:
    """The waveform of an array as downmix gives it, or one a channel; and what the caller should know.

    Raises:
        AudioShapeError, AudioValueError: as for downmix.
    """
    _check_array(samples, (limits or AudioLimits()).max_channels)
    if not samples.size:
        return (np.zeros(0, np.float32),), ()
    if samples.ndim == 1:
        waveforms, cancelled = [_scale(samples)], False
    else:
        channel_axis = 1 if samples.shape[1] <= samples.shape[0] else 0
        scaled = _scale(samples if channel_axis == 1 else samples.T)
        mixed, cancelled = (None, False) if separate else mix_channels(scaled)
        waveforms = [mixed] if mixed is not None else list(scaled.T)
    for waveform in waveforms:
        check_values(waveform, "the array")
    plain = tuple(np.ascontiguousarray(waveform, np.float32) for waveform in waveforms)
    return plain, (CANCELLED_NOTE,) if cancelled else ()


def _check_array(samples: Any, max_channels: int) -> None:
    if not isinstance(samples, np.ndarray):
        raise AudioShapeError(
            f"audio of type {type(samples).__name__}",
            "a numpy array",
            "convert it: np.frombuffer(data, np.int16) for bytes, np.asarray(samples, np.float32) for lists",
        )
    if samples.dtype.kind not in "fiu" or (samples.dtype.itemsize > 4 and samples.dtype.kind != "f"):
        raise AudioShapeError(
            f"an array of dtype {samples.dtype}",
            "float16/32/64 in [-1, 1], or int8/16/32 or uint8/16/32 samples",
            "convert it, for instance samples.astype(np.float32) for scaled floats",
        )
    if samples.ndim not in (1, 2):
        raise AudioShapeError(
            f"an array of shape {samples.shape}",
            "[n_samples], [n_samples, n_channels] or [n_channels, n_samples]",
            "pass one recording at a time",
        )
    if samples.ndim == 2 and samples.size and min(samples.shape) > max_channels:
        raise AudioShapeError(
            f"an array of shape {samples.shape}: at least {min(samples.shape)} channels",
            f"at most {max_channels} channels on the shorter axis",
            "pass one recording of [n_samples] at a time",
        )


def _scale(samples: NDArray[Any]) -> Waveform:
    if samples.dtype.kind == "f":
        with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
            return samples.astype(np.float32, copy=False)
    half = 2.0 ** (8 * samples.dtype.itemsize - 1)
    middle = half if samples.dtype.kind == "u" else 0.0
    return ((samples.astype(np.float64) - middle) / half).astype(np.float32)


def check_values(waveform: Waveform, name: str) -> None:
    """Raise AudioValueError for samples that are not finite or were never scaled."""
    if not waveform.size:
        return
    peak = max(float(waveform.max()), -float(waveform.min()))  # NaN survives both, infinity one
    if not np.isfinite(peak):
        bad = int(np.count_nonzero(~np.isfinite(waveform)))
        raise AudioValueError(
            f"{name} holds {bad} samples that are NaN or infinite",
            "finite samples",
            "fix the step that wrote them, or replace them with np.nan_to_num",
        )
    if peak > MAX_PEAK:
        raise AudioValueError(
            f"float samples of {name} reach {peak:.0f}",
            "floats in [-1, 1]",
            "divide by 32768, or pass the integers with their integer dtype",
        )


def check_rate(sample_rate: float, name: str, limits: AudioLimits) -> None:
    """Raise AudioLimitError for a sample rate in Hz outside the limits."""
    known = isinstance(sample_rate, int | float | np.integer | np.floating)
    if not known or not limits.min_sample_rate <= sample_rate <= limits.max_sample_rate:
        raise AudioLimitError(
            f"{name} has a sample rate of {sample_rate!r} Hz",
            f"{limits.min_sample_rate} to {limits.max_sample_rate} Hz",
            "check the file's header or the sample_rate argument",
        )


def check_channels(n_channels: int, name: str, limits: AudioLimits) -> None:
    """Raise AudioLimitError for no channels or too many."""
    if not 1 <= n_channels <= limits.max_channels:
        raise AudioLimitError(
            f"{name} has {n_channels} channels",
            f"1 to {limits.max_channels} channels",
            "check the file's header, or mix it down first",
        )


def check_duration(duration_s: float, name: str, limits: AudioLimits) -> None:
    """Raise AudioLimitError for more seconds than the limits allow."""
    if duration_s > limits.max_duration_s:
        raise AudioLimitError(
            f"{name} holds at least {duration_s:.1f} s of audio",
            f"at most {limits.max_duration_s:.1f} s",
            "cut it into parts, or raise AudioLimits.max_duration_s",
        )


def check_length(waveform: Waveform, name: str, limits: AudioLimits) -> Waveform:
    """Return a 16 kHz waveform that is long enough; raise AudioValueError or AudioTooShortError."""
    if not len(waveform):
        raise AudioValueError(f"{name} holds no samples", "a recording", "check how it was recorded")
    if len(waveform) < limits.min_duration_s * SAMPLE_RATE:
        raise AudioTooShortError(
            f"{name} holds {1000 * len(waveform) / SAMPLE_RATE:.1f} ms of audio",
            f"at least {1000 * limits.min_duration_s:.0f} ms",
            "pass a longer recording",
        )
    return waveform


def check_bytes(n_bytes: int, limits: AudioLimits) -> None:
    """Raise AudioLimitError for more bytes than are held in memory."""
    if n_bytes > limits.max_file_bytes:
        raise AudioLimitError(
            f"{n_bytes} bytes of audio in memory",
            f"at most {limits.max_file_bytes}",
            "pass a path, or raise AudioLimits.max_file_bytes",
        )

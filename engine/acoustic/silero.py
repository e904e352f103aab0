"""Where speech is, by Silero VAD: an ONNX file of a package that the user installs, or of any path.

Source: github.com/snakers4/silero-vad (MIT), versions 5 and 6. It hears frames of 32 ms, each with the end
of the frame before it, and remembers what came before. Its weights are not part of this project.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine.audio import vad
from engine.audio.limits import SAMPLE_RATE, Waveform
from engine.errors import DependencyError, OptionError
from engine.options import RuntimeOptions
from engine.runtime.cancel import CancelToken
from engine.runtime.onnx_session import Session, open_session

FRAME_SAMPLES: Final = 512
CONTEXT_SAMPLES: Final = 64
BLOCK_FRAMES: Final = 512  # heard in one call, where the graph takes several frames
HIDDEN: Final = 128
ON: Final = 0.5  # Silero's own thresholds
OFF: Final = 0.35
# Package -> its files, in order of preference; the first takes a block of frames in one call.
PACKAGES: Final = {
    "silero_vad": ("data/silero_vad_16k_sequence.onnx", "data/silero_vad.onnx"),
    "faster_whisper": ("assets/silero_vad_v6.onnx",),
}
SEQUENCE_INPUTS: Final = {"input", "h", "c"}
STREAM_INPUTS: Final = {"input", "state", "sr"}


def find_model(wanted: str = "silero") -> Path:
    """The ONNX file: that of an installed package for "silero", else the path itself.

    Raises:
        DependencyError: no package holds it. OptionError: no such file.
    """
    if wanted != "silero":
        if not Path(wanted).is_file():
            raise OptionError(f"vad {wanted!r}", "energy, silero, or the path of a file", "check the path")
        return Path(wanted)
    for package, names in PACKAGES.items():
        spec = importlib.util.find_spec(package)  # found, never imported: it would want torch
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            for name in names:
                if (Path(folder) / name).is_file():
                    return Path(folder) / name
    raise DependencyError(
        "Silero's speech detector is not installed",
        "its ONNX file, from the package silero-vad or faster-whisper",
        "pip install --no-deps silero-vad, or give the path of the file",
    )


class SileroDetector:
    """A loaded detector; safe to share between threads.

    Args:
        path: of the ONNX file.
    Raises:
        OptionError: the file is no Silero model of version 5 or 6.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._session: Session = open_session(path.read_bytes(), RuntimeOptions(device="cpu"), threads=1)
            self._several = set(self._session.input_names) == SEQUENCE_INPUTS
            if not self._several and set(self._session.input_names) != STREAM_INPUTS:
                raise _no_silero(path)
            self.compute_probabilities(np.zeros(2 * FRAME_SAMPLES, np.float32))
        except (OptionError, DependencyError):
            raise
        except Exception as error:  # onnxruntime's own types
            raise _no_silero(path) from error

    def compute_probabilities(
        self, waveform: Waveform, cancel: CancelToken | None = None
    ) -> NDArray[np.float32]:
        """How likely each frame of 32 ms holds speech.

        Args:
            waveform: float32 [n_samples], mono, 16 kHz.
            cancel: ends the call from another thread.
        Returns:
            float32 [n_frames], 0 to 1; n_frames = ceil(n_samples / 512).
        """
        n_frames = -(-len(waveform) // FRAME_SAMPLES)
        padded = np.zeros(CONTEXT_SAMPLES + n_frames * FRAME_SAMPLES, np.float32)
        padded[CONTEXT_SAMPLES : CONTEXT_SAMPLES + len(waveform)] = waveform
        frames = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT_SAMPLES + FRAME_SAMPLES)
        frames = frames[::FRAME_SAMPLES]
        found = self._hear_blocks(frames, cancel) if self._several else self._hear_frames(frames, cancel)
        return np.concatenate([np.zeros(0, np.float32), *found])

    def detect_speech(
        self, waveform: Waveform, *, max_window_s: float = 28.0, cancel: CancelToken | None = None
    ) -> list[tuple[float, float]]:
        """Find speech; arguments and result as for engine.audio.vad.detect_speech, at 16 kHz."""
        if not len(waveform):
            return []
        levels = vad.compute_excess(vad.compute_band_levels(waveform, SAMPLE_RATE, cancel), cancel)
        hop = round(vad.FRAME_S * SAMPLE_RATE)
        owner = np.minimum(np.arange(len(levels)) * hop + hop // 2, len(waveform) - 1) // FRAME_SAMPLES
        speech = self.compute_probabilities(waveform, cancel)[owner]
        thresholds = vad.Thresholds(np.full_like(speech, ON), np.full_like(speech, OFF))
        regions = vad.find_regions(speech, thresholds, len(waveform) / SAMPLE_RATE)
        return vad.split_windows(regions, levels, max_window_s - vad.ROUNDING_S)

    def _hear_blocks(
        self, frames: NDArray[np.float32], cancel: CancelToken | None
    ) -> list[NDArray[np.float32]]:
        found: list[NDArray[np.float32]] = []
        hidden = cell = np.zeros((1, 1, HIDDEN), np.float32)
        for first in range(0, len(frames), BLOCK_FRAMES):
            block = np.ascontiguousarray(frames[first : first + BLOCK_FRAMES])
            heard, hidden, cell = self._session.run({"input": block, "h": hidden, "c": cell}, cancel=cancel)
            found.append(heard.reshape(-1))
        return found

    def _hear_frames(
        self, frames: NDArray[np.float32], cancel: CancelToken | None
    ) -> list[NDArray[np.float32]]:
        found, state = [], np.zeros((2, 1, HIDDEN), np.float32)
        rate = np.array(SAMPLE_RATE, np.int64)
        for frame in frames:
            heard, state = self._session.run(
                {"input": frame[None], "state": state, "sr": rate}, cancel=cancel
            )
            found.append(heard.reshape(-1))
        return found


def _no_silero(path: Path) -> OptionError:
    return OptionError(
        f"{str(path)!r} is not Silero's speech detector",
        "an ONNX file of its version 5 or 6",
        "take the one of the package silero-vad",
    )

"""Samples from a microphone: the only importer of sounddevice (extra [microphone])."""

from __future__ import annotations

import queue
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine._distribution import NAME
from engine.errors import AudioWarning, DependencyError, DeviceError

BLOCK_S: Final = 0.05
MAX_QUEUED_S: Final = 600.0  # what may wait while others compute: 19 MB at 16 kHz
Samples = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class InputDevice:
    """A device that records.

    Attributes:
        number, name: either chooses it. sample_rate: Hz, its own. is_default: whether nobody has to.
    """

    number: int
    name: str
    sample_rate: int
    is_default: bool


class BlockQueue:
    """Blocks of samples on their way from the sound card's thread to whoever iterates; says what is lost."""

    def __init__(self, max_blocks: int) -> None:
        """Start empty."""
        self._blocks: queue.Queue[Samples | None] = queue.Queue(max_blocks)
        self._n_lost = 0
        self.closed = False

    def take(self, block: NDArray[Any], frames: int, time: Any, status: Any) -> None:
        """The callback of PortAudio: copy, for the buffer is used again; never wait.

        Args:
            block: int16 [frames, 1]. status: says in input_overflow that audio before it was lost.
        """
        self._n_lost += bool(getattr(status, "input_overflow", False))
        try:
            self._blocks.put_nowait(block[:, 0].copy())
        except queue.Full:
            self._n_lost += 1

    def end(self) -> None:
        """No block follows; from any thread."""
        self.closed = True
        with suppress(queue.Full):  # whoever iterates sees it when the rest is taken
            self._blocks.put_nowait(None)

    def __iter__(self) -> Iterator[Samples]:
        """Blocks int16 [n_samples] until end(); warns with AudioWarning where some were lost."""
        while True:
            try:
                block = self._blocks.get(timeout=0.2)
            except queue.Empty:
                if self.closed:
                    return
                continue
            self._warn()
            if block is None:
                return
            yield block

    def _warn(self) -> None:
        lost, self._n_lost = self._n_lost, 0
        if lost:
            warnings.warn(
                f"{lost} block(s) of the microphone were lost: this computer did not keep up; try --passes 1",
                AudioWarning,
                stacklevel=3,
            )


class Microphone:
    """An open input device, as a context manager; iterate over it for int16 [n_samples], mono.

    Attributes:
        device: what records.
    """

    def __init__(self, device: str | int | None = None) -> None:
        """Choose a device; it records from `with` on.

        Args:
            device: number or (part of a) name; None takes the system's default.
        Raises:
            DependencyError: no sounddevice, or no PortAudio for it. DeviceError: no such device, or none.
        """
        self.device = find_device(device)
        self._queue = BlockQueue(round(MAX_QUEUED_S / BLOCK_S))
        self._stopped = False
        self._stream: Any = None

    def __enter__(self) -> Microphone:
        sounddevice = load_sounddevice()
        try:
            self._stream = sounddevice.InputStream(
                device=self.device.number, samplerate=self.device.sample_rate, channels=1, dtype="int16",
                blocksize=round(BLOCK_S * self.device.sample_rate), callback=self._queue.take,
                finished_callback=self._queue.end,
            )  # fmt: skip
            self._stream.start()
        except sounddevice.PortAudioError as error:
            raise DeviceError(
                f"microphone {self.device.name!r} cannot be opened ({error})",
                "a microphone that no other program uses",
                "close the other program, or choose another microphone",
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._stopped = True
        if self._stream is not None:
            self._stream.close()
            self._queue.end()

    def rest(self) -> Iterator[Samples]:
        """Stop recording; the samples that were recorded and not taken."""
        self._close()
        yield from self._queue

    def __iter__(self) -> Iterator[Samples]:
        """Samples as they are recorded.

        Raises:
            DeviceError: the device stopped by itself, for instance because it was unplugged.
        """
        yield from self._queue
        if not self._stopped:
            raise DeviceError(
                f"microphone {self.device.name!r} stopped", "one that records", "check that it is plugged in"
            )


def list_devices() -> list[InputDevice]:
    """Every device that records.

    Raises:
        DependencyError: no sounddevice, or no PortAudio for it.
    """
    sounddevice = load_sounddevice()
    default = sounddevice.default.device[0]
    return [
        InputDevice(number, str(each["name"]), round(each["default_samplerate"]), number == default)
        for number, each in enumerate(sounddevice.query_devices())
        if each["max_input_channels"] > 0
    ]


def find_device(wanted: str | int | None) -> InputDevice:
    """The device of a number or a name; the default one for None.

    Raises:
        DependencyError: as list_devices. DeviceError: none or several fit.
    """
    return choose_device(list_devices(), wanted)


def choose_device(devices: list[InputDevice], wanted: str | int | None) -> InputDevice:
    """One of the devices.

    Raises:
        DeviceError: none or several fit.
    """
    if not devices:
        raise DeviceError(
            "no microphone", "a device that records", "plug one in, or pipe audio to engine stream"
        )
    if wanted is None:
        return next((each for each in devices if each.is_default), devices[0])
    text = str(wanted)
    fitting = [each for each in devices if text == str(each.number)] or [
        each for each in devices if text.casefold() in each.name.casefold()
    ]
    exact = [each for each in fitting if each.name.casefold() == text.casefold()]
    if len(exact or fitting) != 1:
        names = ", ".join(f"{each.number} ({each.name})" for each in devices)
        raise DeviceError(f"microphone {text!r}", f"one of {names}", "name one by its number")
    return (exact or fitting)[0]


def load_sounddevice() -> ModuleType:
    """The package, with PortAudio.

    Raises:
        DependencyError: either is missing.
    """
    try:
        import sounddevice
    except ImportError as error:
        raise DependencyError(
            "the package sounddevice is missing",
            "the extra [microphone]",
            f"pip install '{NAME}[microphone]'",
        ) from error
    except OSError as error:  # its own: PortAudio is a library of the system
        raise DependencyError(
            f"sounddevice cannot be used ({error})", "the library PortAudio", "apt install libportaudio2"
        ) from error
    module: ModuleType = sounddevice
    return module

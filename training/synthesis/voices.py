"""The synthetic speakers: SVOX Pico distorted into many voices, and espeak-ng's variants."""

from __future__ import annotations

import dataclasses
import html
import json
import random
import shutil
import struct
import subprocess
import threading
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
SPEAK_S = 120  # until a voice that hangs over one sentence is ended
PICO_F0_HZ = 195.0  # of the German voice at pitch level 100
ESPEAK_VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "f1", "f2", "f3", "f4", "f5",
                   "klatt2", "klatt4", "Andy", "Annie", "Michael", "Alicia")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Voice:
    """One synthetic speaker.

    Attributes:
        name: what the manifest calls it.
        engine: "pico" or "espeak".
        variant: espeak-ng's voice variant; empty for Pico.
        f0_hz: mean pitch.
        formant: factor on all resonances; below 1 is a longer vocal tract.
        tempo: factor on the engine's speaking rate.
        held_out: only for evaluation, never for training.
    """

    name: str
    engine: str
    variant: str
    f0_hz: float
    formant: float
    tempo: float
    held_out: bool


def build_voices(n_pico: int = 48, seed: int = 0) -> list[Voice]:
    """Return all voices; every eighth Pico voice and every sixth espeak variant is held out."""
    generator = random.Random(seed)
    voices = []
    for index in range(n_pico):
        formant = 0.80 + 0.34 * (index + generator.random()) / n_pico
        f0_hz = 105.0 * 2.0 ** (1.25 * (formant - 0.80) / 0.34 + generator.uniform(-0.25, 0.3))
        tempo = generator.uniform(0.85, 1.35)
        voices.append(Voice(f"pico-{index:02d}", "pico", "", f0_hz, formant, tempo, index % 8 == 3))
    for index, variant in enumerate(ESPEAK_VARIANTS):
        tempo = generator.uniform(0.8, 1.2)
        voices.append(Voice(f"espeak-{variant}", "espeak", variant, 0.0, 1.0, tempo, index % 6 == 3))
    return voices


def shift_formants(waveform: NDArray[np.float32], formant: float) -> NDArray[np.float32]:
    """Play a waveform `formant` times faster: resonances and pitch rise by it, duration falls by it."""
    if abs(formant - 1.0) < 0.01:
        return waveform
    return np.asarray(soxr.resample(waveform, SAMPLE_RATE * formant, SAMPLE_RATE, quality="MQ"), np.float32)


class PicoEngine:
    """A running `node pico_tts.mjs`; not to be shared between threads."""

    def __init__(self, package_dir: Path, lingware_dir: Path) -> None:
        node = shutil.which("node")
        if node is None:
            raise FileNotFoundError(
                "SVOX Pico runs as WebAssembly and needs node on the PATH: install Node.js >= 18"
            )
        script = Path(__file__).with_name("pico_tts.mjs")
        self._process = subprocess.Popen(
            [node, str(script), str(package_dir), str(lingware_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def speak(self, text: str, voice: Voice, generator: random.Random) -> NDArray[np.float32] | None:
        """Return float32 [n_samples] at 16 kHz, or None where Pico could not say the text."""
        assert self._process.stdin is not None and self._process.stdout is not None
        line = json.dumps({"id": 0, "ssml": pico_markup(text, voice, generator)}) + "\n"
        alarm = threading.Timer(SPEAK_S, self._process.kill)  # then what is read below ends early
        alarm.start()
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
            header = self._process.stdout.read(8)
            n_bytes = struct.unpack("<ii", header)[1] if len(header) == 8 else 0
            content = self._process.stdout.read(max(0, n_bytes))
        finally:
            alarm.cancel()
        if len(header) < 8 or len(content) < n_bytes:
            raise RuntimeError("SVOX Pico stopped; its message is above")
        if n_bytes <= 0:
            return None
        samples = np.frombuffer(content, "<i2")
        return shift_formants(samples.astype(np.float32) / 32768.0, voice.formant)

    def close(self) -> None:
        """Let node end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()


def pico_markup(text: str, voice: Voice, generator: random.Random) -> str:
    """Wrap a text in Pico's pitch and speed tags.

    The levels compensate `shift_formants`, so that the result has the voice's pitch and rate. Two of
    three sentences get a random melody: single words are higher, lower, longer or faster, as people
    speak and the engine does not.
    """
    pitch = 100.0 * voice.f0_hz / voice.formant / PICO_F0_HZ * generator.uniform(0.87, 1.15)
    speed = 100.0 * voice.tempo / voice.formant * generator.uniform(0.85, 1.18)
    if generator.random() < 0.33:
        return _tag(html.escape(text, quote=False), pitch, speed)
    parts = []
    spread = generator.uniform(0.03, 0.22)
    for word in text.split():
        word = html.escape(word, quote=False)
        if generator.random() < 0.4:
            word = _tag(word, pitch * generator.gauss(1.0, spread), speed * generator.uniform(0.75, 1.2))
        else:
            word = _tag(word, pitch, speed)
        if generator.random() < 0.03:
            word += f"<break time='{generator.randrange(80, 500)}ms'/>"
        parts.append(word)
    return " ".join(parts)


def _tag(text: str, pitch: float, speed: float) -> str:
    level = min(200, max(50, round(pitch)))
    rate = min(500, max(20, round(speed)))
    return f"<pitch level='{level}'><speed level='{rate}'>{text}</speed></pitch>"


def speak_espeak(
    text: str, voice: Voice, generator: random.Random, scratch: Path
) -> NDArray[np.float32] | None:
    """Return float32 [n_samples] at 16 kHz from espeak-ng, or None where it said nothing."""
    program = shutil.which("espeak-ng")
    if program is None:
        raise FileNotFoundError(
            "the espeak voices need espeak-ng on the PATH (Debian: apt install espeak-ng)"
        )
    target = scratch / "espeak.wav"
    options = [
        "-v",
        f"de+{voice.variant}",
        "-s",
        str(round(160 * voice.tempo * generator.uniform(0.88, 1.15))),
    ]
    options += ["-p", str(generator.randrange(25, 75)), "-w", str(target), "--", text]
    subprocess.run([program, *options], check=True, stderr=subprocess.DEVNULL, timeout=SPEAK_S)
    waveform, sample_rate = soundfile.read(target, dtype="float32")
    if waveform.size == 0:
        return None
    return np.asarray(soxr.resample(waveform, sample_rate, SAMPLE_RATE, quality="MQ"), np.float32)

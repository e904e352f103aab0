"""Mutated audio files: each ends in audio or in a typed error, in bounded time and memory.

A short form runs with the tests. The long form: `python -m tests.fuzz.audio --count 1000000 --seed 0`.
It stops at the first failure and writes the file that caused it.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.audio.load import AudioLimits, load_audio
from engine.errors import AudioError, AudioWarning
from tests.unit.audio_files import RATE, Track, encoded, muxed, noise

LIMITS = AudioLimits(max_duration_s=20.0, max_decoded_samples=4_000_000)
MAX_SECONDS = 30.0  # for one file, on a machine that does other things as well
MAX_GROWTH_MB = 400.0
NUMBERS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\1\0\0\0")
SNDFILE = (
    ("WAV", "PCM_16"), ("WAV", "IMA_ADPCM"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
    ("MP3", None), ("AIFF", "PCM_24"), ("AU", "ULAW"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"),
    ("W64", "FLOAT"), ("RF64", "PCM_16"),
)  # fmt: skip
MEDIA = (
    ("matroska", "pcm_s16le"), ("webm", "libopus"), ("mp4", "aac"), ("mov", "alac"), ("mpegts", "aac"),
    ("avi", "ac3"), ("adts", "aac"), ("flv", "aac"), ("wv", "wavpack"), ("asf", "mp2"), ("mpegts", "mp2"),
)  # fmt: skip


def make_files(media: bool = True) -> dict[str, bytes]:
    """Small undamaged files of every kind, by name."""
    wave = noise(0.6, 1)
    stereo = np.stack([wave, noise(0.6, 2)], axis=1)
    files = {
        f"{form}/{subtype}": encoded(stereo if form in ("FLAC", "AIFF") else wave, form, subtype)
        for form, subtype in SNDFILE
    }
    if not media:
        return files
    for form, codec in MEDIA:
        rate = 48_000 if codec in ("libopus", "ac3", "mp2") else RATE
        files[f"{form}/{codec}"] = muxed([Track(noise(0.6, 3, rate))], form, codec, rate)
    many = np.repeat(wave[:, None], 16, axis=1)
    files["matroska/16 channels"] = muxed([Track(many)], "matroska", "pcm_s16le", layout="16 channels")
    files["matroska/2 tracks"] = muxed([Track(wave * 0), Track(wave)], "matroska", "flac")
    return files


def mutate(files: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """One of the files with bytes changed, cut, doubled, inserted, moved, or another file joined to it."""
    content = bytearray(files[rng.integers(len(files))])
    for _ in range(int(rng.integers(1, 4))):
        kind = rng.integers(8)
        at = int(rng.integers(len(content) if rng.random() < 0.4 else min(len(content), 600)))
        length = int(rng.integers(1, 64))
        if kind <= 2:
            for _ in range(int(rng.integers(1, 9))):
                content[(at + int(rng.integers(64))) % len(content)] = int(rng.integers(256))
        elif kind == 3:
            content[at : at + 4] = NUMBERS[rng.integers(len(NUMBERS))]
        elif kind == 4:
            del content[max(at, 1) : at + length if rng.random() < 0.5 else None]
        elif kind == 5:
            content[at:at] = content[at : at + 16 * length]
        elif kind == 6:
            content[at:at] = rng.bytes(length)
        else:
            content += files[rng.integers(len(files))]
    return bytes(content)


def check(content: bytes) -> str:
    """Decode; return "audio", "warned" or the kind of error. Raises whatever is no typed error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            waveform = load_audio(content, limits=LIMITS)
        except AudioError as error:
            assert error.got, "the message must say what was got"
            assert error.want, "the message must say what was wanted"
            return "decoder crashed" if "crashed" in error.got else type(error).__name__
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert np.isfinite(waveform).all()
    assert len(waveform) <= LIMITS.max_duration_s * RATE
    kinds = {warning.category for warning in caught}
    assert kinds <= {AudioWarning}
    assert len(caught) <= 1
    return "warned" if kinds else "audio"


def fuzz(
    count: int, seed: int, files: dict[str, bytes], max_s: float = float("inf"), folder: Path | None = None
) -> Counter[str]:
    """Check mutated files until count or max_s is reached; return how many ended in what."""
    rng, outcomes, began = np.random.default_rng(seed), Counter[str](), time.monotonic()
    contents, base_mb = list(files.values()), peak_mb()
    for number in range(count):
        if time.monotonic() - began > max_s:
            break
        content, start = mutate(contents, rng), time.monotonic()
        try:
            outcomes[check(content)] += 1
            assert time.monotonic() - start < MAX_SECONDS, "it took too long"
            assert peak_mb() - base_mb < MAX_GROWTH_MB, "it took too much memory"
        except BaseException:
            if folder is not None:
                (folder / f"failed_{seed}_{number}.bin").write_bytes(content)
            raise
    return outcomes


def peak_mb() -> float:
    """The most memory that this process has held, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if sys.platform == "linux" else 1024**2)


def main() -> None:
    """The long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max_s", type=float, default=float("inf"), help="seconds after which it stops")
    parser.add_argument("--folder", type=Path, default=Path(), help="where a file that fails is written")
    options = parser.parse_args()
    began = time.monotonic()
    outcomes = fuzz(options.count, options.seed, make_files(), options.max_s, options.folder)
    print(f"{sum(outcomes.values())} files in {time.monotonic() - began:.0f} s, peak {peak_mb():.0f} MB")
    for kind, n_files in outcomes.most_common():
        print(f"  {kind:20} {n_files}")


if __name__ == "__main__":
    main()

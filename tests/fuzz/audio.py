"""Mutated audio files: each ends in audio or in a typed error, in bounded time and memory.

A short form runs with the tests. The long form:
`python -m tests.fuzz.audio --count 1000000 --seed 0 --out tests/fuzz/results/audio.json`.
It goes on where the file given by --out ended, stops at the first failure and writes the file that caused it.
"""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from engine.audio import child
from engine.audio.load import AudioLimits, load_audio
from engine.errors import AudioError, AudioWarning
from tests.fuzz import long_form
from tests.fuzz.lines import LineCounter
from tests.fuzz.record import MAX_GROWTH_MB, FuzzError, Record, peak_mb, timed
from tests.unit.audio_files import RATE, Track, encoded, muxed, noise

LIMITS = AudioLimits(max_duration_s=20.0, max_decoded_samples=4_000_000)
CLIP_S = 0.15  # most files of a long run: what is damaged counts, not how much there is
WARM_UP = 300  # cases after which memory counts
LINES_EVERY = 100
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
MODULES = (
    "engine.audio.container_clock", "engine.audio.containers", "engine.audio.decoding", "engine.audio.extent",
    "engine.audio.formats", "engine.audio.headers", "engine.audio.load", "engine.audio.media",
    "engine.audio.mpeg", "engine.audio.ogg", "engine.audio.pcm", "engine.audio.sink", "engine.audio.sndfile",
    "engine.audio.sources",
)  # fmt: skip


def make_files(media: bool = True, clip_s: float = 0.6) -> dict[str, bytes]:
    """Small undamaged files of every kind, by name."""
    wave = noise(clip_s, 1)
    stereo = np.stack([wave, noise(clip_s, 2)], axis=1)
    files = {
        f"{form}/{subtype}": encoded(stereo if form in ("FLAC", "AIFF") else wave, form, subtype)
        for form, subtype in SNDFILE
    }
    if not media:
        return files
    for form, codec in MEDIA:
        rate = 48_000 if codec in ("libopus", "ac3", "mp2") else RATE
        files[f"{form}/{codec}"] = muxed([Track(noise(clip_s, 3, rate))], form, codec, rate)
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


def make_case(files: Sequence[bytes], seed: int, number: int) -> bytes:
    """The file of a case."""
    return mutate(files, np.random.default_rng([seed, number]))


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
    count: int, seed: int, files: Sequence[bytes], record: Record | None = None, max_s: float = float("inf"),
    folder: Path | None = None,
) -> Record:  # fmt: skip
    """Check mutated files until there are count of them or max_s is over.

    Args:
        record: of a run that this one continues. folder: receives a file that fails.
    Raises:
        FuzzError: a file failed; the message says which and how.
    """
    record, began, base_mb = record or Record(seed), time.monotonic(), 0.0
    first = record.done
    while record.done < count and time.monotonic() - began < max_s:
        number = record.done
        content = make_case(files, seed, number)
        try:
            outcome = timed(partial(check, content), record)
            base_mb = peak_mb() if number - first == WARM_UP else base_mb
            record.note(0.0, 0.0, peak_mb() - base_mb if base_mb else 0.0)
            if record.growth_mb > MAX_GROWTH_MB:
                raise FuzzError(f"{record.growth_mb:.0f} MB")
        except (Exception, KeyboardInterrupt) as error:
            if folder is not None:
                (folder / f"failed_{seed}_{number}.bin").write_bytes(content)
            raise FuzzError(f"case {number} of seed {seed}: {error!r}") from error
        record.count("files", outcome)
    record.seconds += time.monotonic() - began
    return record


def trace(connection: Connection, seed: int, numbers: Sequence[int]) -> None:
    """Send the lines that cases reach, decoders included, which run in this process here, and may end it."""
    child.AVAILABLE = False
    files, lines = list(make_files(clip_s=CLIP_S).values()), LineCounter(MODULES)
    for number in numbers:
        with lines.recording():
            check(make_case(files, seed, number))
        connection.send((number, {path: sorted(seen) for path, seen in lines.seen.items() if seen}))


def count_lines(lines: LineCounter, seed: int, numbers: Sequence[int]) -> None:
    """Add the lines of these cases; what a case reaches that ends its process is not known."""
    context = multiprocessing.get_context("spawn")
    while numbers:
        ours, theirs = context.Pipe()
        process = context.Process(target=trace, args=(theirs, seed, numbers), daemon=True)
        process.start()
        theirs.close()
        last = numbers[0] - 1
        try:
            while last < numbers[-1] and ours.poll(60):
                last, seen = ours.recv()
                lines.add(seen)
        except EOFError:
            pass
        process.kill()
        process.join()
        numbers = [number for number in numbers if number > last + 1] if last < numbers[-1] else []


def main() -> None:
    """The long form."""
    options = long_form.read_options(__doc__, 1_000_000, "fuzz_audio_")
    lines, every = LineCounter(MODULES), 5000
    files = list(make_files(clip_s=CLIP_S).values())

    def block(record: Record, count: int, left_s: float) -> None:
        first = record.done
        fuzz(count, options.seed, files, record, left_s, options.folder)
        if first < 10 * every:
            count_lines(lines, options.seed, range(first, record.done, LINES_EVERY))

    long_form.run(options, "tests.fuzz.audio", every, lines, block)


if __name__ == "__main__":
    main()

"""The same audio in any container, re-muxed, joined, padded, cut or late: the same words at the same times.

A short form runs with the tests. The long form: `python -m tests.fuzz.containers --count 1000 --seed 0`.
It stops at the first difference and writes the file that caused it.
"""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import engine
from engine.audio.load import load_audio
from engine.types import DecodingOptions, Word
from tests.unit.audio_files import RATE, Track, encoded, find_offset, muxed

ROOT = Path(__file__).resolve().parents[2]
ONE_PASS = DecodingOptions(passes=1, punctuation=False)
HOP = 320  # samples of one row of the first pass
FRAME_S = 0.15  # two frames of AAC at 16 kHz: what an encoder puts in front, and not every container tells
PAUSE_S = 1.5  # between what is joined: a region each
QUIET = 0.1  # of the mean power: less is a pause, of which codecs leave nothing to find
LEFT_BY_CODECS = 0.7  # of the words of the first pass, at least
SIMILAR = 0.5  # the correlation with what a lossy codec leaves, at least
CLOCK_S = 0.02  # of containers that count in milliseconds


class Form(NamedTuple):
    """A container and codec; by: "sndfile" or "av"; lossless: the samples are the same, bit for bit."""

    container: str
    codec: str | None
    by: str
    lossless: bool = True
    rate: int = RATE
    others: tuple[str, ...] = ()  # containers that its packets may move to


FORMS = (
    Form("WAV", "PCM_16", "sndfile"), Form("WAV", "PCM_24", "sndfile"), Form("WAV", "FLOAT", "sndfile"),
    Form("FLAC", None, "sndfile"), Form("AIFF", "PCM_16", "sndfile"), Form("AU", "PCM_16", "sndfile"),
    Form("CAF", "PCM_16", "sndfile"), Form("W64", "PCM_16", "sndfile"), Form("RF64", "PCM_16", "sndfile"),
    Form("OGG", "VORBIS", "sndfile", lossless=False), Form("OGG", "OPUS", "sndfile", lossless=False),
    Form("MP3", None, "sndfile", lossless=False),
    Form("matroska", "flac", "av", others=("ogg", "matroska", "flac")),
    Form("matroska", "pcm_s16le", "av", others=("avi", "mov", "wav", "w64", "caf")),
    Form("mov", "alac", "av", others=("caf", "matroska", "ipod")),
    Form("wv", "wavpack", "av", others=("matroska",)),
    Form("ipod", "aac", "av", False, others=("matroska", "mov", "mp4", "mpegts", "adts", "flv")),
    Form("mpegts", "mp2", "av", False, others=("matroska", "avi")),
    Form("webm", "libopus", "av", False, 48_000, ("matroska", "ogg", "mp4")),
    Form("mp3", "libmp3lame", "av", False, others=("matroska", "mp4", "avi", "mpegts")),
)  # fmt: skip
SIXTEEN_BITS = ("flac", "pcm_s16le", "wavpack")  # as FFmpeg's encoders take them
# Files of these that follow each other in one file are one recording after the other.
JOINED = ("WAV", "FLAC", "AIFF", "W64", "OGG", "MP3", "matroska", "mpegts", "ipod", "webm", "wv")
LATE = ("matroska", "mov")  # whose clocks may start later


class Case(NamedTuple):
    """A file, what it holds, and how far times may be off; n_parts: pieces that are found by themselves."""

    name: str
    content: bytes
    samples: np.ndarray
    lossless: bool
    tolerance_s: float
    n_parts: int = 2


def load_clip(name: str = "station") -> np.ndarray:
    """Speech with pauses around it, float32 [n_samples], of 16 bits."""
    clip = load_audio(sorted((ROOT / "examples/audio").glob(f"{name}.flac"))[0])
    pause = np.zeros(round(PAUSE_S / 2 * RATE), np.float32)
    clip = np.concatenate([pause, clip, pause])
    return clip[: len(clip) // HOP * HOP]


def encode(samples: np.ndarray, form: Form, start_s: float = 0.0) -> bytes:
    """A file of this form, whose clock starts at start_s."""
    if form.codec in SIXTEEN_BITS:
        samples = samples * np.float32(32768 / 32767)  # by which muxed rounds
    if form.by == "sndfile":
        return encoded(samples, form.container, form.codec)
    if form.rate != RATE:
        import soxr

        samples = soxr.resample(samples, RATE, form.rate)
    return muxed([Track(samples, start_s)], form.container, str(form.codec), form.rate)


def remux(content: bytes, source: str, target: str) -> bytes:
    """The same packets in another container."""
    import av

    buffer = io.BytesIO()
    with av.open(io.BytesIO(content), "r") as read, av.open(buffer, "w", format=target) as written:
        track: Any = read.streams.audio[0]
        stream = written.add_stream_from_template(track)
        for packet in read.demux(track):
            if packet.dts is not None:
                packet.stream = stream
                written.mux(packet)
    return buffer.getvalue()


def make_case(clip: np.ndarray, form: Form, what: str, rng: np.random.Generator) -> Case:
    """A file made of the clip.

    Args:
        what: "plain", "remuxed", "joined", "padded", "cut" or "late".
    """
    samples, tolerance_s, n_parts = clip, 0.0 if form.lossless else FRAME_S, 2
    name = f"{form.container}/{form.codec} {what}"
    if what == "padded":
        n_before, n_after = (HOP * int(n) for n in rng.integers(0, 200, 2))
        samples = np.pad(clip, (n_before, n_after))
    elif what == "cut":
        samples = clip[HOP * int(rng.integers(0, len(clip) // (2 * HOP))) :]
    content = encode(samples, form)
    if what == "remuxed":
        target = str(rng.choice(form.others))
        content, name = remux(content, form.container, target), f"{name} to {target}"
    elif what == "joined":
        n_parts = int(rng.integers(2, 4))
        content, samples = content * n_parts, np.tile(clip, n_parts)
        tolerance_s *= n_parts
    elif what == "late":
        start_s = round(HOP / RATE * int(rng.integers(1, 400)), 3)
        content, samples = encode(clip, form, start_s), np.pad(clip, (round(start_s * RATE), 0))
        tolerance_s += CLOCK_S
    return Case(name, content, samples, form.lossless and what != "late", tolerance_s, n_parts)


def possible(form: Form) -> list[str]:
    """What can be done with files of this form."""
    found = ["plain", "padded", "cut"]
    found += ["remuxed"] if form.others else []
    found += ["joined"] if form.container in JOINED else []
    return found + (["late"] if form.container in LATE else [])


def compare_samples(case: Case) -> str:
    """What is wrong with the waveform that is read; "" if it is the one that was written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        waveform = load_audio(case.content)
    if case.lossless:
        same = len(waveform) == len(case.samples) and np.abs(waveform - case.samples).max() < 1e-6
        return "" if same else f"{len(waveform)} samples that differ from the {len(case.samples)} written"
    off_s = (len(waveform) - len(case.samples)) / RATE
    if abs(off_s) > case.tolerance_s:
        return f"{off_s:+.3f} s too long"
    size, margin = len(case.samples) // case.n_parts, round((case.tolerance_s + CLOCK_S) * RATE)
    for first in range(0, size * case.n_parts, size):
        part, before = case.samples[first : first + size], min(first, margin)
        if np.square(part).mean() < QUIET * np.square(case.samples).mean():
            continue
        at, similarity = find_offset(waveform[first - before : first + size + margin], part)
        if similarity < SIMILAR or abs(at - before) / RATE > case.tolerance_s:
            return f"samples from {first} on are {(at - before) / RATE:+.3f} s off ({similarity:.2f})"
    return ""


def compare_words(recogniser: engine.SpeechTranslator, case: Case) -> str:
    """What is wrong with the words that are heard; "" if they are those of the samples themselves.

    A lossy codec may change a word here and there; those that it leaves have their times.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = recogniser.transcribe(case.content, options=ONE_PASS).words
    expected = recogniser.transcribe(case.samples, options=ONE_PASS).words
    pairs = same_words(found, expected)
    least = len(expected) if case.lossless else LEFT_BY_CODECS * len(expected)
    if len(pairs) < least or (case.lossless and len(found) > len(expected)):
        return f"heard {spoken(found)!r} instead of {spoken(expected)!r}"
    off_s = max((abs(one.start_s - other.start_s) for one, other in pairs), default=0.0)
    return f"words are {off_s:.3f} s off" if off_s > case.tolerance_s + HOP / RATE + 1e-9 else ""


def same_words(found: Sequence[Word], expected: Sequence[Word]) -> list[tuple[Word, Word]]:
    """The words that both say, in order."""
    texts = [[word.text for word in words] for words in (found, expected)]
    blocks = SequenceMatcher(None, *texts, autojunk=False).get_matching_blocks()
    return [(found[a + i], expected[b + i]) for a, b, size in blocks for i in range(size)]


def spoken(words: Sequence[Word]) -> str:
    """The words, as text."""
    return " ".join(word.text for word in words)


def run(count: int, seed: int, out: Path) -> int:
    """Compare `count` random files; return an exit code."""
    rng = np.random.default_rng(seed)
    clip, recogniser = load_clip(), engine.load(threads=1)
    done: Counter[str] = Counter()
    for number in range(count):
        form = FORMS[int(rng.integers(len(FORMS)))]
        case = make_case(clip, form, str(rng.choice(possible(form))), rng)
        problem = compare_samples(case) or compare_words(recogniser, case)
        done[case.name.split(" ")[1]] += 1
        if problem:
            out.write_bytes(case.content)
            print(f"{number}: {case.name}: {problem}; written to {out}")
            return 1
    print(f"{count} files agree: {dict(done)}")
    return 0


def main() -> int:
    """The long form."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("container-failure.bin"))
    options = parser.parse_args()
    return run(options.count, options.seed, options.out)


if __name__ == "__main__":
    sys.exit(main())

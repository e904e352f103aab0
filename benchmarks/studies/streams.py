"""`engine-bench stream`: many live streams on few cores, against whole files.

The clock is simulated, so that other programs on the machine do not count: chunks arrive as in real time,
and computing takes the CPU time that it took here, on `--threads` cores, in the order of arrival. Nothing is
preempted, as the engine's scheduler would do: the lags are those of a queue.

Each stream is a row of clips with pauses between them. Its words are compared with the references, its errors
with those of the same audio as a whole file, and its word times with a forced alignment of the references.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.data.manifest import Utterance
from benchmarks.errors import BenchmarkError
from benchmarks.extras import SCORING, check_extras
from benchmarks.measures.metrics import Errors, add_errors, count_word_errors
from benchmarks.options import Progress, add_data_options, add_engine_options, fraction, positive, settings_of
from benchmarks.reports.table import align, number
from benchmarks.run import load_data, load_engine, write_json
from engine.audio.limits import SAMPLE_RATE
from engine.jobs.streams import SpeechStream
from engine.text import normalize_text
from engine.two_pass.alignment import align_words
from engine.types import DecodingOptions, StreamEvent, Word

PAUSES_S = (1.0, 2.0)  # between clips; the same in every run
LEAD_S = 0.5
EDGE_S = 0.3  # of pauses, that belong to the clips beside them
Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class Speaker:
    """What comes in over one stream.

    Attributes:
        waveform: float32 [n_samples], 16 kHz. text_de: what is said.
        clips: first sample, samples and text of each clip in it. start_s: when it begins to speak.
    """

    waveform: Waveform
    text_de: str
    clips: tuple[tuple[int, Waveform, str], ...]
    start_s: float


@dataclass
class Heard:
    """What came out of a stream: events, each with its lag on the simulated clock."""

    events: list[tuple[StreamEvent, float]] = field(default_factory=list)

    @property
    def finals(self) -> list[StreamEvent]:
        """The final segments."""
        return [event for event, _ in self.events if event.kind == "final"]

    def lags(self, kind: str) -> list[float]:
        """Of events of a kind; of finals only those that a pause ended."""
        return [
            lag for event, lag in self.events if event.kind == kind and (kind != "final" or event.is_endpoint)
        ]


class Cores:
    """Cores that compute what is measured; a clock for the streams on them."""

    def __init__(self, count: int) -> None:
        """All are free at 0."""
        self._free_s = [0.0] * count
        self._began_s, self._start_s, self.busy_s = 0.0, 0.0, 0.0

    def __call__(self) -> float:
        """Now, for the stream that computes."""
        return self._start_s + time.process_time() - self._began_s

    def run(self, ready_s: float, job: Any) -> tuple[Any, float, float]:
        """Compute on the core that is free first; the result, when it began and when it ended."""
        core = int(np.argmin(self._free_s))
        self._start_s, self._began_s = max(ready_s, self._free_s[core]), time.process_time()
        result = job()
        end_s = self()
        self.busy_s += end_s - self._start_s
        self._free_s[core] = end_s
        return result, self._start_s, end_s


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of the subcommand."""
    add_data_options(parser)
    add_engine_options(parser)
    parser.add_argument(
        "--streams", type=positive, default=4, metavar="N", help="at the same time (%(default)s)"
    )
    parser.add_argument("--chunk_s", type=fraction, default=0.1, metavar="S", help="of audio (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> int:
    """Measure, print, write; returns the exit code."""
    check_extras(*SCORING)
    if not 0.01 <= options.chunk_s <= 10:
        raise BenchmarkError(f"--chunk_s {options.chunk_s:g}", "0.01 to 10 seconds", "correct it")
    settings = settings_of(options, task="transcribe")
    data = load_data(settings)
    system = load_engine(settings, data.utterances)
    speakers = arrange(data.utterances, options.streams, system.translator)
    progress = Progress(options.quiet)
    try:
        result = measure(
            system.translator, speakers, system.options, options.threads or system.translator.threads,
            options.chunk_s, progress,
        )  # fmt: skip
    finally:
        progress.close()
    result = {"signature": system.signature, **result, **options.provenance}
    if options.json:
        write_json(result, options.json)
    print(render(result))
    return 0


def arrange(utterances: Sequence[Utterance], n_streams: int, translator: Any) -> list[Speaker]:
    """Deal the clips out to streams, with pauses of noise-free silence between them.

    Raises:
        BenchmarkError: fewer clips than streams.
    """
    if len(utterances) < n_streams:
        raise BenchmarkError(
            f"{len(utterances)} clips for {n_streams} streams", "one a stream", "lower --streams"
        )
    rng, speakers = np.random.default_rng(20), []
    for index in range(n_streams):
        parts, clips, position = [np.zeros(round(LEAD_S * SAMPLE_RATE), np.float32)], [], 0
        for utterance in utterances[index::n_streams]:
            position = sum(map(len, parts))
            waveform = translator.load_audio(str(utterance.path))
            clips.append((position, waveform, utterance.text_de))
            parts += [waveform, np.zeros(round(rng.uniform(*PAUSES_S) * SAMPLE_RATE), np.float32)]
        text = " ".join(clip[2] for clip in clips)
        speakers.append(Speaker(np.concatenate(parts), text, tuple(clips), float(rng.uniform(0.0, 2.0))))
    return speakers


def measure(
    translator: Any, speakers: Sequence[Speaker], options: DecodingOptions, cores: int, chunk_s: float,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Streams, the same audio as whole files, and forced alignments."""
    machine = Cores(cores)
    heard, ended_s = simulate(translator, speakers, options, machine, chunk_s, progress)
    tick = progress(len(speakers), "whole files")
    streamed, whole, offsets, seams = [], [], [], []
    for speaker, each in zip(speakers, heard, strict=True):
        text = " ".join(event.text for event in each.finals)
        file = translator.transcribe(speaker.waveform, SAMPLE_RATE, options=options)
        streamed.append(count_word_errors(speaker.text_de, text))
        whole.append(count_word_errors(speaker.text_de, file.text))
        words = [word for event in each.finals for word in event.words]
        for start_s, end_s, forced in forced_words(translator, speaker):
            inside = [
                word for word in words if start_s - EDGE_S < word.start_s and word.end_s < end_s + EDGE_S
            ]
            offsets += time_differences(forced, inside)
        seams += time_differences(file.words, words)
        tick()
    return {
        "streams": len(speakers), "cores": cores, "chunk_s": chunk_s,
        "passes": translator.choose_passes(options),
        "audio_s": sum(len(each.waveform) for each in speakers) / SAMPLE_RATE, "simulated_s": ended_s,
        "cpu_s": machine.busy_s, "cpu_share": machine.busy_s / (cores * ended_s),
        "partial_lag_s": percentiles([lag for each in heard for lag in each.lags("partial")]),
        "final_lag_s": percentiles([lag for each in heard for lag in each.lags("final")]),
        "speech_start_lag_s": percentiles([lag for each in heard for lag in each.lags("speech_start")]),
        "wer": add_errors(streamed).rate, "wer_whole_files": add_errors(whole).rate,
        "word_errors": _counts(add_errors(streamed)), "word_errors_whole_files": _counts(add_errors(whole)),
        "word_times_forced_alignment_s": percentiles(offsets), "word_times_whole_files_s": percentiles(seams),
    }  # fmt: skip


def simulate(
    translator: Any, speakers: Sequence[Speaker], options: DecodingOptions, machine: Cores, chunk_s: float,
    progress: Progress,
) -> tuple[list[Heard], float]:  # fmt: skip
    """Feed all streams in the order in which their chunks arrive; when the last one ended."""
    size = round(chunk_s * SAMPLE_RATE)
    arrivals = sorted(
        (each.start_s + min(at + size, len(each.waveform)) / SAMPLE_RATE, index, at)
        for index, each in enumerate(speakers)
        for at in range(0, len(each.waveform), size)
    )
    streams: list[SpeechStream] = [translator.open_stream(SAMPLE_RATE, options=options) for _ in speakers]
    for stream in streams:
        stream.clock = machine
    heard, free_s = [Heard() for _ in speakers], [0.0] * len(speakers)
    tick = progress(len(arrivals), "streams")
    for arrived_s, index, at in arrivals:
        stream, waveform = streams[index], speakers[index].waveform
        job = partial(_feed, stream, waveform[at : at + size], at + size >= len(waveform))
        events, began_s, free_s[index] = machine.run(max(arrived_s, free_s[index]), job)
        heard[index].events += [(event, event.lag_s + began_s - arrived_s) for event in events]
        tick()
    return heard, max(free_s)


def _feed(stream: SpeechStream, chunk: Waveform, last: bool) -> list[StreamEvent]:
    return stream.feed(chunk) + (stream.finish() if last else [])


def forced_words(translator: Any, speaker: Speaker) -> Iterator[tuple[float, float, list[Word]]]:
    """Start and end of each clip, and its words where a forced alignment of the reference by CTC puts them.

    Clips with a letter that is not in the vocabulary, or longer than the encoder takes, are left out.
    """
    labels, frame_s = translator.decoder.labels, translator.acoustic.frame_s
    for position, waveform, text in speaker.clips:
        spoken = normalize_text(text).split()
        spelled = [[labels.index.get(letter, -1) for letter in word] for word in spoken]
        duration_s = len(waveform) / SAMPLE_RATE
        if not spoken or any(-1 in word for word in spelled) or duration_s > translator.acoustic.max_window_s:
            continue
        log_probs = translator.compute_log_probs(translator.compute_features(waveform))
        spans = align_words(log_probs, [[word] for word in spelled], labels.blank_id, labels.delimiter_id)
        at_s = position / SAMPLE_RATE
        words = [
            Word(word, at_s + span.first * frame_s, at_s + span.last * frame_s, span.heard)
            for word, span in zip(spoken, spans, strict=True)
        ]
        yield at_s, at_s + duration_s, words


def time_differences(reference: Sequence[Word], words: Sequence[Word]) -> list[float]:
    """Mean distance of start and end, in seconds, of words that both have in the same order."""
    spoken, said = ([normalize_text(word.text) for word in each] for each in (reference, words))
    blocks = SequenceMatcher(None, spoken, said, autojunk=False).get_matching_blocks()
    pairs = [(reference[block.a + i], words[block.b + i]) for block in blocks for i in range(block.size)]
    return [(abs(a.start_s - b.start_s) + abs(a.end_s - b.end_s)) / 2 for a, b in pairs]


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """How many, mean, median, 95th percentile and maximum; None of nothing."""
    if not values:
        return None
    p50, p95 = np.percentile(values, [50, 95])
    mean = float(np.mean(values))
    return {"n": len(values), "mean": mean, "p50": float(p50), "p95": float(p95), "max": float(max(values))}


def _counts(errors: Errors) -> list[int]:
    return [errors.substitutions, errors.deletions, errors.insertions, errors.reference]


def render(result: Mapping[str, Any]) -> str:
    """Two tables."""
    rows = [
        [
            name,
            *(
                number(None if found is None else 1000 * found[key], 0)
                for key in ("mean", "p50", "p95", "max")
            ),
        ]
        for name, found in (
            ("partial", result["partial_lag_s"]),
            ("final, after its endpoint", result["final_lag_s"]),
            ("word times, to a forced alignment", result["word_times_forced_alignment_s"]),
            ("word times, to whole files", result["word_times_whole_files_s"]),
        )
    ]
    figures = [
        [f"{result['streams']} streams on {result['cores']} core(s), passes {result['passes']}",
         number(100 * result["cpu_share"], 0, " %"), number(100 * result["wer"], 1, " %"),
         number(100 * result["wer_whole_files"], 1, " %")]
    ]  # fmt: skip
    return "\n\n".join(
        [
            result["signature"].replace("|", " | "),
            align(figures, ["", "CPU", "WER", "WER of whole files"]),
            align(rows, ["milliseconds", "mean", "median", "95 %", "most"]),
        ]
    )

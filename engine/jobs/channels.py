"""One transcript of several channels, each recognised by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from engine.audio.limits import SAMPLE_RATE, Waveform
from engine.audio.load import Audio
from engine.jobs.groups import Recording
from engine.runtime.clock import StageClock
from engine.types import Progress, Transcript


def open_recordings(
    audio: Audio,
    find_regions: Callable[[Waveform], list[tuple[float, float]]],
    clock: StageClock,
    separate: bool,
) -> list[Recording]:
    """Audio that is ready for the encoder: one recording, or one for each channel.

    Args:
        find_regions: [(start_s, end_s)] of speech in a waveform.
        clock: what reading took; it goes to the first.
        separate: the recordings are channels and keep their numbers.
    """
    recordings = []
    for waveform, number in zip(audio.waveforms, audio.channels, strict=True):
        with clock.time("audio"):
            regions = find_regions(waveform)
        channel = number if separate else None
        recordings.append(
            Recording(waveform, regions, len(waveform) / SAMPLE_RATE, clock, audio.notes, channel)
        )
        clock = StageClock()
    return recordings


def transcribe_channels(
    recordings: Sequence[Recording],
    transcribe: Callable[[Recording, Progress | None], Transcript],
    progress: Progress | None = None,
) -> Transcript:
    """Recognise the channels of a recording one after the other.

    Args:
        recordings: one for each channel; or a single one of all channels, which stays as it is.
        transcribe: a recording, and whom to tell how far it is -> its transcript.
        progress: called with (done_s, total_s), seconds over all channels.
    """
    found = [
        transcribe(recording, _part_of(progress, number, len(recordings)))
        for number, recording in enumerate(recordings)
    ]
    if recordings[0].channel is None:
        return found[0]
    return merge_channels(found, [recording.channel or 1 for recording in recordings])


def merge_channels(transcripts: Sequence[Transcript], channels: Sequence[int]) -> Transcript:
    """Put the segments of all channels in order of time; each says which channel it was heard on.

    Args:
        transcripts: one for each channel of one recording; their warnings are the same.
        channels: their numbers, from 1.
    Returns:
        Transcript; each stage took what it took on all channels.
    """
    segments = [
        replace(segment, channel=channel)
        for transcript, channel in zip(transcripts, channels, strict=True)
        for segment in transcript.segments
    ]
    segments.sort(key=lambda segment: (segment.start_s, segment.channel))
    stages: dict[str, float] = {}
    for transcript in transcripts:
        for stage, seconds in transcript.stages_s.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    return replace(transcripts[0], segments=tuple(segments), stages_s=stages)


def _part_of(progress: Progress | None, number: int, n_channels: int) -> Progress | None:
    """The part of a recording's progress that channel `number`, from 0, makes."""
    if progress is None or n_channels == 1:
        return progress
    return lambda done_s, total_s: progress(number * total_s + done_s, n_channels * total_s)

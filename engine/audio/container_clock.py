"""Times of a container -> silence for what is not there, nothing twice for what overlaps."""

from __future__ import annotations

from typing import Final

TOLERANCE_S: Final = 0.1  # clocks of containers count in ms, and drift
MAX_START_S: Final = 600.0  # a file that starts later was cut from a live stream: its clock starts there
OVERLAP_S: Final = 1.0  # a clock that jumps further back was started again
GAP_S: Final = 3600.0  # ... and any other clock
DISCONTINUITY_S: Final = 10.0  # a broadcast clock that jumps further ahead was set anew
NOTED_S: Final = 1.0  # shorter gaps are pauses in which some encoders send nothing
MAX_NOTES: Final = 4
FROM_ZERO: Final = frozenset({"matroska", "mov"})
# Not "avi": its times of audio are made from bytes and a stated rate, which may be wrong.
FROM_START: Final = frozenset({"asf", "flv", "mpeg", "mpegts", "ogg"})
BROADCAST: Final = frozenset({"mpeg", "mpegts", "ogg"})


class ContainerClock:
    """Compares what was delivered with the container's clock.

    Args:
        demuxer: FFmpeg's name of the container; others than those above have no clock.
        start_us: where the file starts, over all its tracks, in microseconds; None if unknown.
    """

    def __init__(self, demuxer: str, start_us: int | None) -> None:
        self._jumps: list[str] = []
        self._gaps: list[tuple[float, float]] = []  # start and length, seconds
        start_s = (start_us or 0) / 1e6
        self._runs = demuxer in FROM_ZERO or demuxer in FROM_START
        self._limit_s = DISCONTINUITY_S if demuxer in BROADCAST else GAP_S
        self._origin_s = start_s
        if demuxer in FROM_ZERO and start_s <= MAX_START_S:
            self._origin_s = 0.0
        elif demuxer in FROM_ZERO:
            self._jumps.append(f"its clock starts at {start_s:.1f} s; times are counted from there")
        self._position_s = 0.0
        self._started = False

    def place(self, time_s: float | None, n_samples: int, sample_rate: int) -> tuple[float, int]:
        """Place a frame.

        Args:
            time_s: when it starts by the container's clock, None if it does not say.
        Returns:
            Seconds of silence before it, and samples at its start that were already delivered.
        """
        silence_s, n_dropped = 0.0, 0
        if self._runs and time_s is not None:
            ahead_s = time_s - self._origin_s - self._position_s
            if ahead_s > (self._limit_s if self._started else GAP_S) or ahead_s < -OVERLAP_S:
                self._origin_s += ahead_s
                self._note_jump(ahead_s)
            elif ahead_s > TOLERANCE_S:
                silence_s = ahead_s
                if self._started and ahead_s >= NOTED_S:
                    self._gaps.append((self._position_s, ahead_s))
            elif ahead_s < -TOLERANCE_S:
                n_dropped = min(n_samples, round(-ahead_s * sample_rate))
        self._started = True
        self._position_s += silence_s + (n_samples - n_dropped) / sample_rate
        return silence_s, n_dropped

    @property
    def notes(self) -> list[str]:
        """What the caller should know."""
        if not self._gaps:
            return self._jumps
        total_s, at_s = sum(length_s for _, length_s in self._gaps), self._gaps[0][0]
        where = f"from {at_s:.1f} s on" if len(self._gaps) == 1 else f"in {len(self._gaps)} places"
        return [*self._jumps, f"packets of {total_s:.1f} s are missing {where}; silence stands for them"]

    def _note_jump(self, ahead_s: float) -> None:
        if len(self._jumps) < MAX_NOTES:
            self._jumps.append(
                f"its clock jumps by {ahead_s:.1f} s at {self._position_s:.1f} s; what follows is joined"
            )

"""What a decoder is asked for and what it delivers to: the same in this process and in a child."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar

from engine.errors import AudioDecodeError

Part = TypeVar("Part")
Decoded = TypeVar("Decoded")


class Job(NamedTuple):
    """One file to decode.

    Attributes:
        kind: "mpeg" for MP3 by libsndfile, "media" for what FFmpeg has to read, "other" for the same
            by libsndfile where av is not installed.
        name: of the source, container: of its kind; both for messages.
        demuxer: FFmpeg's name of the container; it never guesses.
        track: which of the readable audio tracks, from 0.
        start: position of the first byte after tags in front.
    """

    kind: str
    name: str
    container: str
    demuxer: str
    track: int = 0
    start: int = 0


class Output(Protocol):
    """Where decoders deliver to. Every call may raise to stop the decoder."""

    def beat(self) -> None:
        """Called often while work goes on."""

    def note(self, text: str) -> None:
        """Say what the caller should know about the audio."""

    def form(self, sample_rate: float, n_channels: int, n_frames: int | None = None) -> None:
        """Say what the header claims; n_frames is None where it does not."""

    def audio(self, data: Any, sample_rate: float, n_channels: int) -> None:
        """Deliver float32 samples, interleaved, as bytes or an array."""

    def silence(self, duration_s: float) -> None:
        """Deliver silence."""

    def done(self, n_tracks: int) -> None:
        """Say that all is delivered, before libraries are closed, which damaged files can crash."""


def find_decoder(kind: str) -> Callable[[BinaryIO, Job, Output], int]:
    """The decoder for a kind of job; it returns the number of audio tracks. Its library is imported here."""
    if kind == "media":
        from engine.audio.media import decode_media

        return decode_media
    from engine.audio.sndfile import decode_mpeg, decode_other

    return decode_mpeg if kind == "mpeg" else decode_other


def decode_each(parts: Sequence[Part], decode: Callable[[Part], Decoded], out: Output) -> list[Decoded]:
    """Decode the recordings that are joined in a file; a bad one costs no other.

    Returns:
        What decode returns of those that could be decoded, at least one.
    Raises:
        AudioDecodeError: that of the only one, or of the first where all are bad.
    """
    done: list[Decoded] = []
    errors: list[AudioDecodeError] = []
    for number, part in enumerate(parts, 1):
        try:
            done.append(decode(part))
        except AudioDecodeError as error:
            errors.append(error)
            if len(parts) > 1:
                out.note(
                    f"recording {number} of those joined in it is left out where it is bad ({error.got})"
                )
    if not done:
        raise errors[0]
    return done


def damaged(name: str, container: str, error: object) -> AudioDecodeError:
    """The error for a file that begins as a known kind and cannot be decoded."""
    reason = str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error)
    return AudioDecodeError(
        f"{name} begins as {container} but cannot be decoded ({reason.rstrip('.')})",
        f"a complete and undamaged {container} file",
        "copy, download or record it again",
    )


def no_such_track(name: str, track: int, n_tracks: int) -> AudioDecodeError:
    """The error for an audio track that a file does not have; tracks count from 1."""
    return AudioDecodeError(
        f"audio track {track} was asked for, and {name} has {n_tracks}",
        "1" if n_tracks == 1 else f"1 to {n_tracks}",
        "choose another, or leave it out for the first with speech",
    )

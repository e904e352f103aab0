"""`engine stream`: a terminal that is not garbled, a line for a final elsewhere, Ctrl-C; `engine listen`."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import io
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.audio.load import load_audio
from engine.cli import main
from engine.cli.interrupt import Interrupt
from engine.cli.live import show_stream
from engine.cli.microphone import BlockQueue, InputDevice, Microphone, choose_device
from engine.cli.stream import SampleReader
from engine.cli.terminal import StatusLine, complain, fit_left
from engine.errors import AudioWarning, DependencyError, DeviceError
from engine.jobs.streams import SpeechStream, StreamStages
from tests.reference.tone_speech import recognise, speak

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = 40


def width(text: str) -> int:
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(bool(unicodedata.combining(char)) for char in text)


@given(st.text(st.sampled_from("aß漢字é\u0301 🎤\t\x1b\n")), st.integers(0, 30))
def test_a_line_fits_and_ends_with_what_was_said_last(text: str, columns: int) -> None:
    line = fit_left(text, columns)
    assert width(line) <= columns
    assert not any(unicodedata.category(char) == "Cc" for char in line)
    plain = "".join(" " if unicodedata.category(char) == "Cc" else char for char in text)
    assert line in ("", plain) or plain.endswith(line[1:])


def test_a_text_that_fits_is_left_alone_and_a_long_one_is_cut_from_the_left() -> None:
    assert fit_left("guten Morgen", 12) == "guten Morgen"
    assert fit_left("guten Morgen", 7) == "…Morgen"
    assert fit_left("漢字漢字", 6) == "…漢字"


class Terminal:
    """A pseudo-terminal of COLUMNS columns; `lines` is what somebody in front of it would see."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
        self.written = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        decoder = io.IncrementalNewlineDecoder(None, False)
        with contextlib.suppress(OSError):
            while block := os.read(self.ours, 4096):
                self.written += decoder.decode(block.decode("utf-8", "replace"))

    def close(self) -> None:
        os.close(self.theirs)
        self._reader.join(10)
        os.close(self.ours)

    @property
    def lines(self) -> list[str]:
        rows, column = [""], 0
        for part in re.findall(r"\x1b\[0m|\x1b\[K|\x1b|\r|\n|[^\x1b\r\n]", self.written):
            if part == "\r":
                column = 0
            elif part == "\x1b[K":
                rows[-1] = rows[-1][:column]
            elif part == "\n":
                rows.append("")
            else:
                if part.startswith("\x1b"):  # colours that are reset, or the beginning of what is to come
                    continue
                if column == COLUMNS:  # it wraps
                    rows.append("")
                    column = 0
                rows[-1] = rows[-1][:column] + part + rows[-1][column + 1 :]
                column += 1
        return rows


def until(condition: object, limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_warnings_and_a_status_line_do_not_garble_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    with open(terminal.theirs, "w", encoding="utf-8", closefd=False) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with StatusLine(stream) as line:
            line.show("eins zwei drei " * 10)
            complain("engine: warning: something")
            line.show("vier")
            until(lambda: terminal.lines[-1] == "vier")
    terminal.close()
    assert terminal.lines == ["engine: warning: something", ""]
    assert max(map(len, re.split(r"[\r\n]|\x1b\[K", terminal.written))) < COLUMNS


def test_a_process_on_a_terminal_that_is_interrupted_says_its_last_words_and_leaves_nothing_else() -> None:
    terminal = Terminal()
    samples = (load_audio(ROOT / "examples/audio/visit.flac")[: 3 * 16_000 + 8_000] * 32767).astype("<i2")
    process = subprocess.Popen(
        [sys.executable, "-m", "engine", "stream", "--threads", "1"], cwd=ROOT, stdin=subprocess.PIPE,
        stdout=terminal.theirs, stderr=terminal.theirs, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdin is not None
    try:
        process.stdin.write(samples.tobytes())
        process.stdin.flush()
        until(lambda: "…" in terminal.lines[-1] and "groß" in terminal.lines[-1], 120.0)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.stdin.close()
        terminal.close()
    text = "".join(line for line in terminal.lines if not line.startswith("engine: "))
    assert text == "Morgen besuchen wir meine Großmutter und bringen ihr frische Blumen mit."


def pipe(monkeypatch: pytest.MonkeyPatch, samples: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(samples)))


def test_where_there_is_no_terminal_only_finals_are_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = (load_audio(ROOT / "examples/audio/visit.flac") * 32767).astype("<i2")
    pipe(monkeypatch, np.concatenate([clip, np.zeros(16_000, "<i2"), clip]).tobytes() + b"\0")
    assert main(["stream", "--passes", "1", "--task", "translate", "--pause_s", "0.5"]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2 and "grandmother" in said.out and "\r" not in said.out
    assert said.err.count("\n") == 1 and "middle of a sample" in said.err


def test_events_as_lines_of_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clip = (load_audio(ROOT / "examples/audio/visit.flac") * 32767).astype("<i2")
    pipe(monkeypatch, clip.tobytes())
    assert main(["stream", "--passes", "1", "--output_format", "jsonl", "--numbers", "digits"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [event["kind"] for event in events]
    assert kinds[0] == "speech_start" and kinds[-2:] == ["speech_end", "final"] and "partial" in kinds
    assert events[-1]["is_endpoint"] and events[-1]["words"][0]["word"] == "Morgen"
    page = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    assert [field for event in events for field in event if f"`{field}`" not in page] == []


def test_samples_are_whole_however_they_come() -> None:
    class Drops(io.BytesIO):
        def read1(self, size: int | None = -1) -> bytes:
            return super().read1(min(size or 1, 3))

    values = np.arange(50, dtype="<i2")
    assert np.array_equal(np.concatenate(list(SampleReader(Drops(values.tobytes()), 20))), values)


def test_the_first_interrupt_ends_the_items_and_the_second_one_the_program() -> None:
    with Interrupt() as interrupt:
        seen = []
        for item in interrupt.waiting(iter(range(100))):
            seen.append(item)
            if item == 3:
                os.kill(os.getpid(), signal.SIGINT)
        assert seen == [0, 1, 2, 3] and interrupt.stopped
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def block(values: range) -> np.ndarray:
    return np.array(values, np.int16)[:, None]


def test_blocks_of_a_sound_card_keep_their_order_and_are_copies() -> None:
    blocks, buffer = BlockQueue(100), np.zeros((4, 1), np.int16)

    def card() -> None:
        for start in range(0, 40, 4):
            buffer[:] = block(range(start, start + 4))
            blocks.take(buffer, 4, None, None)
        blocks.end()

    thread = threading.Thread(target=card)
    thread.start()
    assert np.concatenate(list(blocks)).tolist() == list(range(40))
    thread.join()


def test_blocks_that_are_lost_are_told_of() -> None:
    class Status:
        input_overflow = True

    blocks = BlockQueue(2)
    for start in range(3):
        blocks.take(block(range(start, start + 1)), 1, None, Status() if start == 0 else None)
    blocks.end()
    with pytest.warns(AudioWarning, match="2 block"):
        assert [values.tolist() for values in blocks] == [[0], [1]]


def test_a_microphone_is_chosen_by_number_or_name() -> None:
    devices = [
        InputDevice(0, "USB mic", 48_000, False),
        InputDevice(3, "Webcam mic", 44_100, True),
        InputDevice(7, "mic", 16_000, False),
    ]
    for wanted, number in ((None, 3), (7, 7), ("0", 0), ("webcam", 3), ("mic", 7)):
        assert choose_device(devices, wanted).number == number
    for wanted in ("m", "5", ""):
        with pytest.raises(DeviceError, match=r"3 \(Webcam mic\)"):
            choose_device(devices, wanted)
    with pytest.raises(DeviceError, match="no microphone"):
        choose_device([], None)


def test_a_microphone_that_is_gone_does_not_take_the_last_words_with_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Unplugged:
        def __iter__(self) -> Iterator[np.ndarray]:
            yield speak("eins zwei drei")
            raise DeviceError("it is gone")

        def rest(self) -> Iterator[np.ndarray]:
            return iter(())

    stages = StreamStages(recognise, recognise, lambda words, paused: list(words))
    options = argparse.Namespace(task="transcribe", output_format="txt")
    with pytest.raises(DeviceError, match="gone"):
        show_stream(options, SpeechStream(stages), Unplugged())
    assert capsys.readouterr().out == "eins zwei drei\n"


def test_what_was_recorded_and_not_taken_is_there_after_the_end() -> None:
    blocks = BlockQueue(10)
    blocks.take(block(range(3)), 3, None, None)
    blocks.take(block(range(3, 5)), 2, None, None)
    blocks.end()
    assert np.concatenate(list(blocks)).tolist() == list(range(5))


def test_listening_without_a_microphone_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """For real: no package, no PortAudio or no device; a machine that has all of them listens."""
    try:
        Microphone()
    except (DependencyError, DeviceError) as error:
        wanted = str(error)
    else:
        pytest.skip("this machine has a microphone")
    assert main(["listen"]) == 1
    said = capsys.readouterr()
    assert said.err == f"engine: error: {wanted}\n" and said.out == ""
    fixes = ("[microphone]'", "libportaudio2", "plug one in")
    assert any(fix in wanted for fix in fixes)
    listed = main(["listen", "--list_microphones"])
    assert listed == (0 if "plug one in" in wanted else 1) and capsys.readouterr().out == ""

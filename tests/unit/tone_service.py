"""A recogniser of tones, recordings of them, and a real server on a free port."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import soundfile

from engine.audio.load import AudioLimits
from engine.audio.vad import detect_speech
from engine.errors import CancelledError, ModelCapabilityError
from engine.jobs.longform import transcribe_regions
from engine.jobs.partials import PartialTranslations, PartialWords, join_words
from engine.jobs.streams import SpeechStream, StreamStages
from engine.types import Hypothesis, Transcript, Translation, TranslationHypothesis
from tests.reference.tone_speech import recognise, silence, speak

# For what happens at once on a quiet machine; it costs time only where it does not happen.
PATIENCE_S = 60.0
TRANSCRIBE, TRANSLATE = "/v1/audio/transcriptions", "/v1/audio/translations"


class ToneTranslator:
    """The interface of SpeechTranslator over tones; `gate` holds every call until it is set."""

    threads = 2

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started, self.cancelled = threading.Semaphore(0), threading.Event()
        self.hotwords: tuple[str, ...] = ()
        self.options: Any = None
        self.limits = AudioLimits()
        self.error: Exception | None = None
        self.late_error: Exception | None = None  # after all partial texts
        self.has_translator, self.n_streams = True, 0

    def transcribe(
        self,
        source: np.ndarray,
        sample_rate: int | None = None,
        *,
        hotwords: Any = (),
        options: Any = None,
        partial: Any = None,
        cancel: Any = None,
        tell: Any = None,
    ) -> Transcript:
        self.hotwords, self.options = tuple(hotwords), options
        self.started.release()
        if self.error:
            raise self.error
        while not self.gate.wait(0.01):
            if cancel is not None and cancel.cancelled:
                self.cancelled.set()
                raise CancelledError("the call was cancelled")
        if partial:
            tell = lambda words: partial(join_words(words))  # noqa: E731
        told = PartialWords(list, tell) if tell else None
        segments = transcribe_regions(source, detect_speech(source), recognise, partial=told, cancel=cancel)
        if self.late_error:
            raise self.late_error
        return Transcript(segments, len(source) / 16_000)

    def open_stream(
        self,
        sample_rate: int | None = None,
        *,
        task: str = "transcribe",
        hotwords: Any = (),
        options: Any = None,
        endpoint: Any = None,
        cancel: Any = None,
    ) -> SpeechStream:
        self.hotwords, self.options = tuple(hotwords), options
        if task == "translate" and not self.has_translator:
            raise ModelCapabilityError("a model without a translator", "one with", "leave translations out")

        def final(window: np.ndarray) -> Hypothesis:
            self.started.release()
            while not self.gate.wait(0.01):
                if cancel.cancelled:
                    self.cancelled.set()
                    raise CancelledError("the call was cancelled")
            if self.error:
                raise self.error
            return recognise(window)

        stages = StreamStages(
            final,
            recognise,
            lambda words, paused: list(words),
            (lambda texts: [translated(text) for text in texts]) if task == "translate" else None,
        )
        self.n_streams += 1
        return SpeechStream(stages, sample_rate or 16_000, endpoint, cancel)

    def translate(
        self, source: np.ndarray, sample_rate: int | None = None, *, partial: Any = None, **options: Any
    ) -> Translation:
        told = PartialTranslations(lambda texts: [translated(text) for text in texts], partial)
        return told.translate(self.transcribe(source, sample_rate, tell=told if partial else None, **options))


def english(text: str) -> str:
    """The translation of words."""
    known = {"eins": "one", "zwei": "two", "drei": "three"}
    return " ".join(known[word] for word in text.split())


def translated(text: str) -> TranslationHypothesis:
    """The translation of words, with a warning where there are three of them."""
    notes = (f"3 is missing in the English of {text!r}",) if text == "eins zwei drei" else ()
    return TranslationHypothesis(english(text), 0.0, 0.5, notes)


def wav(samples: np.ndarray, form: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format=form)
    return buffer.getvalue()


SPEECH = wav(
    np.concatenate([silence(0.5), speak("eins zwei drei . drei zwei eins", pause_s=2.5), silence(0.5)])
)


def post(client: Any, path: str = TRANSCRIBE, audio: bytes = SPEECH, **fields: Any) -> Any:
    return client.post(path, files={"file": ("speech.wav", audio)}, data={"model": "whisper-1", **fields})


def refused(response: Any, status: int, *words: str) -> None:
    assert response.status_code == status
    error = response.json()["error"]
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    for word in words:
        assert word in error["message"]


class Running:
    """A server that runs in a thread of this process."""

    def __init__(self, server: Any, port: int) -> None:
        self.server, self.port = server, port
        self.url = f"http://127.0.0.1:{port}"

    def connect(self, sent: bytes = b"", timeout: float = PATIENCE_S) -> socket.socket:
        """A new connection on which something was sent."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        sock.sendall(sent)
        return sock


@contextmanager
def running_server(translator: Any, settings: Any = None, **options: Any) -> Iterator[Running]:
    """A real server on a free port of this machine."""
    from engine.serve import create_app
    from engine.serve.transport import server

    (sock,) = server.listen("127.0.0.1", 0)
    port = sock.getsockname()[1]
    running = Running(server.build_server(create_app(translator, settings), **options), port)
    thread = threading.Thread(target=server.run_server, args=(running.server, [sock]))
    thread.start()
    wait_for(lambda: running.server.started)
    try:
        yield running
    finally:
        running.server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the server does not end"


def wait_for(condition: Any, seconds: float = PATIENCE_S) -> None:
    """Wait until it holds."""
    last_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < last_s, "it did not happen in time"
        time.sleep(0.01)


def read_answer(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (lower case) and body of the next answer; status 0 where the connection was closed."""
    file = sock.makefile("rb")
    try:
        status_line = file.readline()
    except ConnectionError:
        return 0, {}, b""
    if not status_line:
        return 0, {}, b""
    headers = {}
    while line := file.readline().strip():
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return int(status_line.split()[1]), headers, file.read(int(headers.get("content-length", 0)))


def form(audio: bytes, **fields: str) -> bytes:
    """A form's body with boundary x."""
    parts = [f'--x\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
    head = 'Content-Disposition: form-data; name="file"; filename="a.wav"'
    return "".join(parts).encode() + f"--x\r\n{head}\r\n\r\n".encode() + audio + b"\r\n--x--\r\n"


def head(length: int | str, path: str = TRANSCRIBE, *headers: str, version: str = "1.1") -> bytes:
    """The head of a request with a form of boundary x; length is a number or another framing header."""
    framing = f"Content-Length: {length}" if isinstance(length, int) else length
    lines = ["Host: a", "Content-Type: multipart/form-data; boundary=x", framing, *headers]
    return f"POST {path} HTTP/{version}\r\n".encode() + "".join(f"{h}\r\n" for h in lines).encode() + b"\r\n"


def error_of(body: bytes) -> dict[str, Any]:
    """The error of an answer."""
    return json.loads(body)["error"]

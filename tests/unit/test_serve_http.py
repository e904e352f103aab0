"""The HTTP service: OpenAI's formats, typed errors, bounds, a full house, leaving clients, honest health."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tone_service import (
    SPEECH,
    TRANSCRIBE,
    TRANSLATE,
    ToneTranslator,
    post,
    refused,
    running_server,
    wait_for,
    wav,
)

from engine.cli import main
from engine.errors import ModelCapabilityError
from engine.types import DecodingOptions

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("multipart", reason="needs the extra [serve]")
pytest.importorskip("httpx", reason="needs httpx")

import httpx
from starlette.testclient import TestClient

from engine.serve import ServeSettings, create_app

BUNDLE = Path(__file__).resolve().parents[2] / "engine" / "bundled" / "de-en-base"


@pytest.fixture
def translator() -> ToneTranslator:
    return ToneTranslator()


@pytest.fixture
def client(translator: ToneTranslator) -> Iterator[TestClient]:
    with TestClient(create_app(translator), raise_server_exceptions=False) as client:
        yield client


def test_json_is_the_default(client: TestClient) -> None:
    response = post(client)
    assert response.status_code == 200
    assert response.json() == {"text": "eins zwei drei drei zwei eins"}
    assert post(client, TRANSLATE).json() == {"text": "one two three three two one"}


def test_text_srt_and_vtt(client: TestClient) -> None:
    assert post(client, response_format="text").text == "eins zwei drei\ndrei zwei eins\n"
    srt = post(client, TRANSLATE, response_format="srt").text
    assert srt.startswith("1\n00:00:00,500 --> 00:00:01,6")
    assert "one two three" in srt
    vtt = post(client, response_format="vtt")
    assert vtt.headers["content-type"].startswith("text/vtt")
    assert vtt.text.startswith("WEBVTT\n")


def test_verbose_json_with_words(client: TestClient) -> None:
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]}
    content = post(client, **fields).json()
    assert content["task"] == "transcribe"
    assert content["language"] == "german"
    assert content["duration"] == pytest.approx(6.02, abs=0.01)
    assert [word["word"] for word in content["words"]] == ["eins", "zwei", "drei", "drei", "zwei", "eins"]
    assert content["segments"][0]["start"] == pytest.approx(0.5, abs=0.02)
    assert content["segments"][0]["avg_logprob"] == pytest.approx(np.log(0.9), abs=1e-3)


def test_verbose_json_has_segments_unless_only_words_are_wanted(client: TestClient) -> None:
    content = post(client, response_format="verbose_json").json()
    assert "words" not in content
    assert len(content["segments"]) == 2
    words_only = post(client, response_format="verbose_json", **{"timestamp_granularities[]": "word"}).json()
    assert "segments" not in words_only
    english = post(client, TRANSLATE, response_format="verbose_json").json()
    assert (english["task"], english["language"]) == ("translate", "english")


@pytest.mark.parametrize("form", ["FLAC", "OGG", "MP3"])
def test_other_formats(client: TestClient, form: str) -> None:
    samples, _ = soundfile.read(io.BytesIO(SPEECH), dtype="float32")
    assert post(client, audio=wav(samples, form)).json()["text"].startswith("eins zwei drei")


def test_hotwords_arrive(client: TestClient, translator: ToneTranslator) -> None:
    post(client, hotwords="Rothenburg, ob der Tauber ,")
    assert translator.hotwords == ("Rothenburg", "ob der Tauber")


def test_the_settings_say_how_requests_are_decoded(translator: ToneTranslator) -> None:
    settings = ServeSettings(decoding=DecodingOptions(beam_width=1))
    with TestClient(create_app(translator, settings)) as client:
        post(client)
    assert translator.options == DecodingOptions(beam_width=1)


def test_the_command_hands_its_options_on(translator: ToneTranslator, monkeypatch: Any) -> None:
    served: list[Any] = []
    monkeypatch.setattr("engine.cli.serve.load_model", lambda options: translator)
    monkeypatch.setattr("engine.cli.serve._load_all", lambda *given: None)
    monkeypatch.setattr("engine.serve.logs.configure_logs", lambda log_format: None)
    monkeypatch.setattr("engine.serve.transport.server.run_server", lambda *given: served.extend(given))
    assert main(["serve", "--beam_size", "3", "--max_duration_s", "20000", "--port", "0"]) == 0
    server, (sock,) = served
    settings = server.config.app.state.service.settings
    assert settings.decoding.beam_width == 3
    assert settings.max_duration_s == translator.limits.max_duration_s == 20_000
    sock.close()


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"response_format": "docx"}, "verbose_json"),
        ({"language": "fr"}, "german"),
        ({"timestamp_granularities[]": "phoneme"}, "segment or word"),
        ({"stream": "maybe"}, "true"),
        ({"stream": "true", "response_format": "srt"}, "json or text"),
        ({"include[]": "logprobs", "response_format": "verbose_json"}, "json"),
        ({"include[]": "item"}, "logprobs"),
        ({"temperature": "hot"}, "0 to 1"),
        ({"chunking_strategy": "server_vad"}, "auto"),
        ({"known_speaker_names[]": "Anna"}, "not told apart"),
        ({"hotword": "Anna"}, "hotwords"),
        ({"keywords[]": ["Anna"] * 1001 + [f"a{i}" for i in range(1001)]}, "Maximum number"),
        ({"keywords[]": "a" * 101}, "at most 100"),
        ({"prompt": "a" * 10_001}, "at most 10000"),
    ],
)
def test_impossible_fields(client: TestClient, fields: dict[str, str], word: str) -> None:
    refused(post(client, **fields), 400, word, "fix:")


@pytest.mark.parametrize(
    ("audio", "status", "word"),
    [
        (b"", 400, "empty"),
        (b"this is no audio", 400, "no known audio format"),
        (wav(np.zeros(16, np.float32)), 400, "25 ms"),
        (wav(np.zeros(32_000, np.float32), "FLAC")[:60], 400, "FLAC"),
    ],
)
def test_bad_audio(client: TestClient, audio: bytes, status: int, word: str) -> None:
    refused(post(client, audio=audio), status, word, "fix:")


def test_requests_without_a_file(client: TestClient) -> None:
    refused(client.post(TRANSCRIBE, data={"model": "whisper-1"}), 400, "file")
    refused(client.post(TRANSCRIBE, json={"file": "a"}), 400, "file")
    refused(client.post(TRANSCRIBE, data={"file": "not an upload"}), 400, "file")
    refused(client.post(TRANSCRIBE, content=b"x", headers={"content-type": "multipart/form-data"}), 400)
    refused(client.get(TRANSCRIBE), 405)
    refused(client.get("/v1/nothing"), 404)


def test_uploads_are_bounded_whether_or_not_they_say_their_size() -> None:
    settings = ServeSettings(max_upload_bytes=20_000)
    with TestClient(create_app(ToneTranslator(), settings)) as client:
        refused(post(client), 413, "20000 bytes")

        def endless() -> Iterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
            for _ in range(1_000):
                yield bytes(1_000)

        headers = {"content-type": "multipart/form-data; boundary=x"}
        refused(client.post(TRANSCRIBE, content=endless(), headers=headers), 413, "20000 bytes")


def test_a_small_file_with_hours_in_it_is_refused() -> None:
    bomb = wav(np.zeros(16_000 * 120, np.float32), "FLAC")
    assert len(bomb) < 30_000
    with TestClient(create_app(ToneTranslator(), ServeSettings(max_duration_s=60))) as client:
        refused(post(client, audio=bomb), 413, "at most 60.0 s")


def test_a_model_without_translator_and_a_broken_one(client: TestClient, translator: ToneTranslator) -> None:
    translator.error = ModelCapabilityError("model 'x' cannot translate", "a full bundle", "load one")
    refused(post(client, TRANSLATE), 400, "cannot translate")
    translator.error = ZeroDivisionError("secret detail")
    response = post(client)
    refused(response, 500, "internal error")
    assert "secret" not in response.text


def test_models(client: TestClient) -> None:
    (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == "german-speech-engine"
    assert model["object"] == "model"


def in_thread(call: Any) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


def test_a_full_house_answers_503_at_once_and_recovers() -> None:
    translator = ToneTranslator()
    settings = ServeSettings(max_running=1, max_pending=2)
    with TestClient(create_app(translator, settings)) as client:
        translator.gate.clear()
        waiting = [in_thread(lambda: post(client)) for _ in range(2)]
        assert translator.started.acquire(timeout=5)
        wait_for(lambda: client.app.state.service.queue.pending == 2)
        response = post(client)
        refused(response, 503, "try again")
        assert response.headers["retry-after"]
        translator.gate.set()
        for thread, results in waiting:
            thread.join(10)
            assert results[0].status_code == 200
        assert post(client).status_code == 200


def test_health_runs_an_inference(client: TestClient, translator: ToneTranslator) -> None:
    response = client.get("/health")
    assert response.status_code == 200
    assert response.json()["status"] == "ok"
    assert response.json()["inference_ms"] > 0
    assert translator.started.acquire(blocking=False), "no inference was run"


def test_health_of_a_deadlocked_model_is_not_ok() -> None:
    translator = ToneTranslator()
    with TestClient(create_app(translator, ServeSettings(health_deadline_s=0.2))) as client:
        translator.gate.clear()
        for _ in range(3):
            response = client.get("/health")
            assert response.status_code == 503
            assert response.json()["status"] == "stuck"
        assert threading.active_count() < 20
        n_probes = sum(thread.name == "engine-health" for thread in threading.enumerate())
        assert n_probes == 1, "probes pile up"
        translator.gate.set()
        time.sleep(0.1)
        assert client.get("/health").status_code == 200


def test_health_of_a_failing_model_and_of_a_stuck_request() -> None:
    translator = ToneTranslator()
    with TestClient(create_app(translator, ServeSettings(stuck_after_s=0.1))) as client:
        translator.error = RuntimeError("secret detail")
        response = client.get("/health")
        assert response.status_code == 503
        assert "secret" not in response.text
        translator.error = None
        translator.gate.clear()
        thread, _ = in_thread(lambda: post(client))
        time.sleep(0.5)
        assert client.get("/health").json()["status"] == "stuck"
        translator.gate.set()
        thread.join(10)


def test_a_client_that_leaves_cancels_its_work() -> None:
    translator = ToneTranslator()
    translator.gate.clear()
    with running_server(translator, ServeSettings(max_running=1)) as running:
        with pytest.raises(httpx.TimeoutException):
            httpx.post(running.url + TRANSCRIBE, files={"file": SPEECH}, timeout=0.5)
        assert translator.cancelled.wait(3), "the work went on for nobody"
        translator.gate.set()
        assert httpx.post(running.url + TRANSCRIBE, files={"file": SPEECH}).status_code == 200


def test_a_slow_upload_ends() -> None:
    def trickle() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        time.sleep(1)
        yield b"late"

    headers = {"content-type": "multipart/form-data; boundary=x"}
    with running_server(ToneTranslator(), ServeSettings(upload_timeout_s=0.3)) as running:
        refused(httpx.post(running.url + TRANSCRIBE, content=trickle(), headers=headers), 408, "upload")


def test_the_default_bundle_is_served() -> None:
    from engine.pipeline import load

    patient = ServeSettings(health_deadline_s=200.0)  # of a machine with other work
    with TestClient(create_app(load(threads=1), patient)) as client:
        assert client.get("/health").json()["status"] == "ok"
        assert client.get("/v1/models").json()["data"][0]["id"]
        noise = wav(np.random.default_rng(0).normal(0, 0.01, 32_000).astype(np.float32))
        for path in (TRANSCRIBE, TRANSLATE):
            response = post(client, path, noise, response_format="verbose_json")
            assert response.status_code == 200
            assert json.loads(response.text)["duration"] == 2.0

"""What a service in use needs: languages, keys, origins, probes, metrics, streams, OpenAI's own client."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import docs_reader
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("uvicorn", reason="needs the extra [serve]")
pytest.importorskip("httpx", reason="needs httpx")

import httpx
import numpy as np
import soundfile
from starlette.testclient import TestClient

from engine.cli.serve import KEY_VARIABLE, _keys
from engine.errors import DecodingError, OptionError
from engine.jobs.partials import PartialWords, join_words
from engine.serve import ServeSettings, create_app
from engine.serve.events import Deltas
from engine.serve.fields import prompt_terms
from engine.types import Word

TEXT = "eins zwei drei drei zwei eins"


@pytest.fixture
def tones() -> ToneTranslator:
    return ToneTranslator()


@pytest.fixture
def client(tones: ToneTranslator) -> Iterator[TestClient]:
    with TestClient(create_app(tones), raise_server_exceptions=False) as client:
        yield client


def test_one_model_by_its_name(client: TestClient) -> None:
    (model,) = client.get("/v1/models").json()["data"]
    assert client.get(f"/v1/models/{model['id']}").json() == model
    assert model["created"] > 1_700_000_000
    response = client.get("/v1/models/whisper-1")
    refused(response, 404, "'whisper-1'", model["id"])
    assert response.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("tag", ["de", "DE", "de-DE", "de_AT", "de-CH", "ger", "German", " deutsch ", ""])
def test_tags_of_german(client: TestClient, tag: str) -> None:
    assert post(client, language=tag).status_code == 200
    assert post(client, **{"languages[]": [tag]}).status_code == 200


@pytest.mark.parametrize("tag", ["en", "de-DE-1996x", "nl", "denglisch", "auto"])
def test_other_languages_are_refused_with_the_list(client: TestClient, tag: str) -> None:
    refused(post(client, language=tag), 400, tag, "de-at", "german", "deutsch")
    refused(post(client, **{"languages[]": ["de", tag]}), 400, tag)


def test_keywords_and_prompts_are_hotwords(client: TestClient, tones: ToneTranslator) -> None:
    post(client, **{"keywords[]": ["Rothenburg", "ob der Tauber"], "hotwords": "Rothenburg, Ulm"})
    assert tones.hotwords == ("Rothenburg", "Ulm", "ob der Tauber")
    post(client, prompt="Rothenburg, Bad Tölz; O2, Ulm")
    assert tones.hotwords == ("Rothenburg", "Bad Tölz", "Ulm")
    post(client, prompt="Gestern waren wir in Ulm, heute in Rom.")
    assert tones.hotwords == ()


@settings(max_examples=50)
@given(st.text(max_size=60))
def test_a_prompt_gives_terms_that_a_decoder_takes(prompt: str) -> None:
    for term in prompt_terms(prompt):
        assert re.fullmatch(r"[a-zäöüß]+( [a-zäöüß]+)*", term, re.IGNORECASE)
        assert term.isprintable()


def test_log_probabilities_of_words(client: TestClient) -> None:
    content = post(client, **{"include[]": "logprobs"}).json()
    assert "".join(entry["token"] for entry in content["logprobs"]) == content["text"] == TEXT
    for entry in content["logprobs"]:
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert entry["logprob"] == pytest.approx(-0.1054, abs=1e-3)  # of 0.9
    refused(post(client, TRANSLATE, **{"include[]": "logprobs"}), 400, "translation")


def events_of(response: Any) -> list[dict[str, Any]]:
    """Events of a stream; the name of each is its type."""
    found = []
    for block in response.text.split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith(":")]
        if lines:
            name, data = lines
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}"
    return found


def test_a_stream_grows_to_the_text_without_one(client: TestClient) -> None:
    response = post(client, stream="true", **{"include[]": "logprobs"})
    assert response.headers["content-type"].startswith("text/event-stream")
    *deltas, done = events_of(response)
    assert len(deltas) > 1
    assert {event["type"] for event in deltas} == {"transcript.text.delta"}
    assert "".join(event["delta"] for event in deltas) == done["text"] == TEXT
    assert done["type"] == "transcript.text.done"
    assert done["logprobs"][0]["token"] == "eins" and "warnings" not in done


def test_a_stream_ends_with_the_warnings_of_the_whole_translation(client: TestClient) -> None:
    whole = post(client, "/v1/audio/translations", response_format="verbose_json").json()
    *_, done = events_of(post(client, "/v1/audio/translations", stream="true"))
    assert done["warnings"] == whole["warnings"]
    assert set(whole["warnings"]) == {"3 is missing in the English of 'eins zwei drei'"}


def test_errors_of_a_stream(client: TestClient, tones: ToneTranslator) -> None:
    refused(post(client, audio=b"no audio", stream="true"), 400, "no known audio format")
    tones.late_error = DecodingError("late", "early")
    delta, error = events_of(post(client, stream="true"))
    assert (delta["type"], error["type"]) == ("transcript.text.delta", "error")
    assert error["error"]["code"] == "DecodingError"
    tones.late_error = ZeroDivisionError("secret detail")
    response = post(client, stream="true")
    assert "secret" not in response.text
    assert "internal error" in events_of(response)[-1]["error"]["message"]
    assert client.app.state.service.queue.pending == 0


def test_a_stream_that_is_left_frees_its_place(tones: ToneTranslator) -> None:
    tones.gate.clear()
    with running_server(tones, ServeSettings(max_running=1)) as running:
        with pytest.raises(httpx.TimeoutException):
            httpx.post(running.url + TRANSCRIBE, files={"file": SPEECH}, data={"stream": "true"}, timeout=0.5)
        assert tones.cancelled.wait(3)
        wait_for(lambda: running.server.config.app.state.service.queue.pending == 0)


@settings(max_examples=50)
@given(st.lists(st.lists(st.sampled_from("ab"), max_size=6), min_size=1, max_size=6))
def test_deltas_make_up_the_last_text_or_a_beginning_of_it(texts: list[list[str]]) -> None:
    """Whatever the texts before said: nothing is sent twice, and nothing that two in a row did not say."""
    deltas = Deltas()
    sent = "".join(deltas.advance(" ".join(words)) for words in texts)
    last = " ".join(texts[-1])
    rest = deltas.finish(last)
    assert sent + rest == last if last.startswith(sent) else not rest


def test_partial_texts_cost_a_part_of_the_time_only() -> None:
    told: list[str] = []

    def slow(words: list[Word]) -> list[Word]:
        time.sleep(0.02)
        return words

    partial = PartialWords(slow, lambda words: told.append(join_words(words)))
    words = [Word(str(i), i, i + 1, 1.0) for i in range(100)]
    for n in range(100):
        partial(words[: n + 1])
    assert told[0] == "0"
    assert 1 <= len(told) < 20


def test_keys(tones: ToneTranslator) -> None:
    with TestClient(create_app(tones, ServeSettings(api_keys=("one", "two")))) as client:
        for headers in (
            {},
            {"Authorization": "Bearer three"},
            {"Authorization": "Basic one"},
            {"Authorization": "one"},
        ):
            for path in ("/v1/models", "/metrics", "/docs", "/v1/nothing"):
                response = client.get(path, headers=headers)
                refused(response, 401, "Bearer")
                assert response.headers["www-authenticate"] == "Bearer"
            refused(client.post(TRANSCRIBE, files={"file": SPEECH}, headers=headers), 401)
        assert not tones.started.acquire(blocking=False)
        for key in ("one", "two"):
            assert client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert [client.get(path).status_code for path in ("/live", "/ready", "/health")] == [200] * 3


def test_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert _keys(None) == ()
    monkeypatch.setenv(KEY_VARIABLE, "one, two")
    assert _keys(None) == ("one", "two")
    assert _keys(["three"]) == ("three",)
    monkeypatch.setenv(KEY_VARIABLE, "")  # a secret that was not found must not open the service
    for keys in (_keys(None), ("a b",), ("ä",)):
        with pytest.raises(OptionError, match="API key"):
            create_app(ToneTranslator(), ServeSettings(api_keys=keys))


def test_origins(tones: ToneTranslator) -> None:
    bounds = ServeSettings(api_keys=("one",), cors_origins=("https://page.example",))
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with TestClient(create_app(tones, bounds)) as client:
        allowed = client.options(TRANSCRIBE, headers={"Origin": "https://page.example", **asked})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://page.example"
        assert (
            client.options(TRANSCRIBE, headers={"Origin": "https://other.example", **asked}).status_code
            == 400
        )
        response = client.get("/v1/models", headers={"Origin": "https://page.example"})
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (
            401,
            "https://page.example",
        )
    with TestClient(create_app(tones)) as client:
        response = client.get("/v1/models", headers={"Origin": "https://page.example"})
        assert "access-control-allow-origin" not in response.headers
    for wrong in ("page.example", "https://page.example/", "https://*.example"):
        with pytest.raises(OptionError, match="origin"):
            create_app(tones, ServeSettings(cors_origins=(wrong,)))


def test_probes_while_the_service_ends(client: TestClient) -> None:
    assert client.get("/ready").json() == {"status": "ok"}
    client.app.state.service.begin_drain()
    response = client.get("/ready")
    assert (response.status_code, response.json()) == (503, {"status": "draining"})
    assert response.headers["retry-after"]
    assert client.get("/live").status_code == 200
    refused(post(client), 503, "ending")


def test_a_request_has_a_time() -> None:
    tones = ToneTranslator()
    tones.gate.clear()
    bounds = ServeSettings(max_running=1, request_timeout_s=0.3)
    with TestClient(create_app(tones, bounds)) as client:
        threads = [threading.Thread(target=lambda: refused(post(client), 504, "0.3 s")) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert tones.cancelled.wait(3)
        tones.gate.set()
        assert post(client).status_code == 200


def test_every_option_of_the_command_is_on_its_page() -> None:
    """Options that bound something are on the page of the service as well."""
    parser, _ = docs_reader.parser_of("engine", ["serve"])
    commands = next(action for action in parser._actions if action.dest == "command")
    options = [action.option_strings[0] for action in commands.choices["serve"]._actions]
    page, service = (
        (docs_reader.ROOT / "docs" / name).read_text() for name in ("command-line.md", "http.md")
    )
    assert len(options) > 20
    assert [name for name in options if name != "-h" and f"`{name}" not in page] == []
    assert [name for name in options if re.search("max_|_s$", name) and f"`{name}`" not in service] == []


def test_metrics(client: TestClient) -> None:
    pytest.importorskip("prometheus_client", reason="needs the package prometheus-client")
    post(client)
    post(client, audio=b"no audio")
    client.get("/v1/nothing")
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    figures = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#"))
    counted = 'speech_engine_requests_total{endpoint="%s",status="%d"}'
    assert figures[counted % (TRANSCRIBE, 200)] == figures[counted % (TRANSCRIBE, 400)] == "1.0"
    assert figures[counted % ("other", 404)] == "1.0"
    assert figures['speech_engine_errors_total{code="AudioDecodeError"}'] == "1.0"
    assert float(figures['speech_engine_audio_seconds_total{task="transcribe"}']) == pytest.approx(
        6.02, abs=0.1
    )
    assert figures['speech_engine_stage_seconds_count{stage="upload"}'] == "2.0"
    assert figures["speech_engine_queue_pending"] == figures["speech_engine_uploads"] == "0.0"
    assert float(figures["process_resident_memory_bytes"]) > 1e7


def test_the_description_of_the_service(client: TestClient) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = client.get("/openapi.json").json()["paths"]
    assert {TRANSCRIBE, TRANSLATE, "/v1/models/{model_id}", "/live", "/ready", "/metrics"} <= set(paths)
    assert client.head("/ready").status_code == 200


def test_metrics_without_the_package(tones: ToneTranslator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    with TestClient(create_app(tones)) as client:
        assert post(client).status_code == 200
        refused(client.get("/metrics"), 501, "prometheus-client")


def test_a_line_of_the_log_names_the_request(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "engine.serve.middleware.access"):
        client.get("/v1/models", headers={"X-Request-ID": "mine"})
        client.get("/ready")
    (line,) = [record for record in caplog.records if record.name == "engine.serve.middleware.access"]
    assert line.fields["status"] == 200
    assert line.fields["path"] == "/v1/models"


def test_a_stream_and_log_probabilities_of_the_default_bundle(
    translator: Any, examples: list[dict[str, str]]
) -> None:
    """Two recordings with a pause between them, so that there is something to stream."""
    samples = [soundfile.read(row["path"], dtype="float32")[0] for row in examples[:2]]
    audio = wav(np.concatenate([samples[0], np.zeros(40_000, np.float32), samples[1]]))
    with TestClient(create_app(translator)) as client:
        for fields in ({}, {"passes": "1", "numbers": "digits"}):
            content = post(client, audio=audio, **fields, **{"include[]": "logprobs"}).json()
            assert "".join(entry["token"] for entry in content["logprobs"]) == content["text"]
            *deltas, done = events_of(post(client, audio=audio, stream="true", **fields))
            assert "".join(event["delta"] for event in deltas) == done["text"] == content["text"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of translations, in the newest client
def test_the_client_of_openai(tones: ToneTranslator) -> None:
    openai = pytest.importorskip("openai", reason="needs the package openai")
    with running_server(tones, ServeSettings(api_keys=("secret",))) as running:
        options = {"base_url": running.url + "/v1", "max_retries": 0}
        client = openai.OpenAI(api_key="secret", **options)
        audio = client.audio.transcriptions
        upload: dict[str, Any] = {"file": ("speech.wav", SPEECH), "model": "whisper-1"}
        assert audio.create(**upload).text == TEXT
        assert audio.create(**upload, response_format="text").strip() == "eins zwei drei\ndrei zwei eins"
        verbose = audio.create(
            **upload, response_format="verbose_json", timestamp_granularities=["word", "segment"]
        )
        assert [word.word for word in verbose.words] == TEXT.split()
        assert len(verbose.segments) == 2
        found = audio.create(**upload, include=["logprobs"], language="de", temperature=0, prompt="Ulm, Rom")
        assert "".join(entry.token for entry in found.logprobs) == TEXT
        assert tones.hotwords == ("Ulm", "Rom")
        events = list(audio.create(**upload, stream=True))
        assert [event.type for event in events[:-1]] == ["transcript.text.delta"] * (len(events) - 1)
        assert "".join(event.delta for event in events[:-1]) == events[-1].text == TEXT
        assert client.audio.translations.create(**upload).text == "one two three three two one"
        (model,) = client.models.list().data
        assert client.models.retrieve(model.id).id == model.id
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("whisper-1")
        with pytest.raises(openai.BadRequestError, match="deutsch"):
            audio.create(**upload, language="fr")
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(api_key="wrong", **options).models.list()
        tones.late_error = DecodingError("late", "early")
        with pytest.raises(openai.APIError, match="late"):
            list(audio.create(**upload, stream=True))

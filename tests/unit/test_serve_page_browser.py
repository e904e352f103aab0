"""The page in a real browser: files and a fake microphone, the embedded model behind it, keyboard and phone.

Needs Chromium (Debian: apt-get install chromium) and the extra [browser]; skipped without them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tone_service import SPEECH, ToneTranslator, running_server, wait_for

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("multipart", reason="needs the extra [serve]")
pytest.importorskip("playwright", reason="needs the extra [browser]")

from playwright.sync_api import Page, WebSocketRoute, expect, sync_playwright

from engine.errors import ModelCapabilityError
from engine.output.formats import render
from engine.output.parsing import parse_json
from engine.serve import ServeSettings
from engine.serve.routes.renderings import render_languages
from engine.types import Segment, Transcript, Translation, Word

CHROMIUM = os.environ.get("ENGINE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed (or named by ENGINE_CHROMIUM)")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "audio"
PATIENCE_MS = 60_000  # on a busy machine; nothing is judged by it
expect.set_options(PATIENCE_MS)
VISIT = "Morgen besuchen wir meine Großmutter und bringen ihr frische Blumen mit."
STATION = "Der Zug nach Hamburg fährt heute leider erst um halb neun ab."


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium whose microphone hears two examples with pauses, once in each session."""
    path = tmp_path_factory.mktemp("microphone") / "speech.wav"
    pause = np.zeros(20_000, np.float32)
    clips = [soundfile.read(EXAMPLES / f"{name}.flac", dtype="float32")[0] for name in ("visit", "station")]
    soundfile.write(
        path, np.concatenate([pause, *(part for clip in clips for part in (clip, pause))]), 16_000
    )
    arguments = [
        "--no-sandbox", "--mute-audio", "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={path}%noloop",
    ]  # fmt: skip
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Page]]:
    """Opens the page of a server; whatever the browser complains about fails the test."""
    complaints: list[str] = []
    contexts = []

    def open_page(url: str, *permissions: str, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": 1000, "height": 700}, **options)
        context.grant_permissions(permissions)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [
        text for text in complaints if "Failed to load resource" not in text
    ] == []  # a status of 4xx or 503


@pytest.fixture(scope="module")
def url(translator: Any) -> Iterator[str]:
    """A server with the embedded model; microphones need localhost or https."""
    with running_server(translator) as running:
        yield f"http://localhost:{running.port}/"


def choose(page: Page, name: str, content: bytes | None = None) -> None:
    if content is None:
        page.set_input_files("#file", EXAMPLES / name)
    else:
        page.set_input_files("#file", {"name": name, "mimeType": "audio/wav", "buffer": content})


def said(page: Page, text: str) -> None:
    expect(page.get_by_role("status")).to_contain_text(text)


def rows(page: Page) -> list[tuple[str, str]]:
    found = page.locator(".segment")
    german, english = found.locator(".german").all_inner_texts(), found.locator(".english").all_inner_texts()
    return list(zip(german, english, strict=True))


def download(page: Page, button: str) -> tuple[str, bytes]:
    with page.expect_download() as event:
        page.get_by_role("group", name="Download").get_by_role("button", name=button, exact=True).click()
    return event.value.suggested_filename, Path(event.value.path()).read_bytes()


def test_a_file_becomes_words_that_play_and_downloads(
    open_page: Callable[..., Page], url: str, translator: Any
) -> None:
    page = open_page(url)
    expect(page.get_by_label("API key")).to_be_hidden()
    choose(page, "visit.flac")
    said(page, "Done: 11 words")
    wanted = translator.translate(EXAMPLES / "visit.flac")
    assert rows(page) == [(VISIT, wanted.text)]
    assert "grandmother" in wanted.text
    words = page.locator(".word").all_inner_texts()
    assert words == VISIT.split()
    page.get_by_role("button", name="Großmutter").click()
    spoken = wanted.source.words[4]
    expect(page.locator("#word")).to_contain_text(f"Großmutter: 0:0{spoken.start_s:.2f}")
    assert page.evaluate("[audio.paused, audio.currentTime]")[0] is False
    assert page.evaluate("audio.currentTime") >= round(spoken.start_s, 3)
    expect(page.locator(".word.spoken").first).to_be_visible()
    page.evaluate("audio.pause()")
    check_downloads(page, parse_json(render(wanted, "json")))


def check_downloads(page: Page, wanted: Translation) -> None:
    """Every format in every language is what the engine writes."""
    for label, suffix, languages in (
        ("German and English", "", frozenset(["de", "en"])),
        ("German", ".de", frozenset(["de"])),
        ("English", ".en", frozenset(["en"])),
    ):
        page.get_by_label("Languages of the download").select_option(label=label)
        for kind in ("txt", "srt", "vtt"):
            name, content = download(page, kind)
            assert name == f"visit{suffix}.{kind}"
            text = render_languages(wanted, "text" if kind == "txt" else kind, languages)
            assert content.decode() == text
    name, content = download(page, "json")
    assert name == "visit.en.json"
    result = parse_json(content)
    assert (result.text, result.source.text) == (wanted.text, wanted.source.text)
    assert result.source.words == wanted.source.words


def test_speech_is_shown_while_it_is_spoken(open_page: Callable[..., Page], url: str) -> None:
    page = open_page(url, "microphone")
    page.get_by_role("button", name="Speak").click()
    said(page, "Speak German now.")
    expect(page.locator(".draft")).to_be_visible()
    expect(page.locator(".german").first).to_have_text(VISIT)
    expect(page.locator(".english").first).to_contain_text("grandmother")
    expect(page.locator(".german").nth(1)).to_have_text(STATION)
    page.get_by_role("button", name="Stop").click()
    said(page, "Done: 23 words")
    assert [german for german, _ in rows(page)] == [VISIT, STATION]
    assert all(english for _, english in rows(page))
    name, content = download(page, "srt")
    assert name == "recording.srt"
    assert content.decode().replace("\n", " ").count(" --> ") >= 2
    page.get_by_role("button", name="Hamburg").click()
    assert page.evaluate("audio.duration") > 9
    assert 6 < page.evaluate("audio.currentTime") < 9


def test_what_is_missing_in_the_english_of_speech_is_listed(open_page: Callable[..., Page], url: str) -> None:
    missing = "the number 9 is missing in the English"

    def pass_on(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def tell(message: str | bytes) -> None:
            event = json.loads(message)
            if event["type"].endswith("translation.delta"):
                event["warnings"] = [missing]
            socket.send(json.dumps(event))

        server.on_message(tell)

    page = open_page(url, "microphone")
    page.route_web_socket("**/v1/realtime*", pass_on)
    page.reload()
    page.get_by_role("button", name="Speak").click()
    expect(page.locator(".english").first).to_contain_text("grandmother")
    expect(page.locator("#warnings")).to_be_hidden()
    page.get_by_role("button", name="Stop").click()
    said(page, "Done: ")
    expect(page.locator("#warnings").get_by_role("listitem").first).to_have_text(missing)


def test_everything_can_be_done_by_keyboard(open_page: Callable[..., Page], url: str) -> None:
    page = open_page(url)
    focused = page.locator(":focus")
    page.keyboard.press("Tab")
    expect(focused).to_have_id("file")
    assert page.locator("label[for=file]").evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files(EXAMPLES / "station.flac")
    said(page, "Done")
    expect(focused).to_have_id("result-title")
    for name in ("languages", None, None, None, None):
        page.keyboard.press("Tab")
        if name:
            expect(focused).to_have_id(name)
    expect(focused).to_have_text("json")
    page.keyboard.press("Tab")
    expect(focused).to_have_text("Der")
    for key, word in (
        ("ArrowRight", "Zug"),
        ("End", "ab."),
        ("ArrowLeft", "neun"),
        ("Home", "Der"),
        ("ArrowUp", "Der"),
    ):
        page.keyboard.press(key)
        expect(focused).to_have_text(word)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.evaluate("audio.paused") is False
    expect(page.locator("#word")).to_contain_text("Zug: ")
    page.keyboard.press("Tab")
    expect(focused).to_have_id("audio")
    page.keyboard.press("Shift+Tab")
    expect(focused).to_have_text("Zug")  # one stop for all words, where one was


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(open_page: Callable[..., Page], scheme: str) -> None:
    long = "Donaudampfschifffahrtsgesellschaftskapitänswitwenrente"
    with running_server(Told(f"Eine {long}", long)) as running:
        page = open_page(running.url, color_scheme=scheme)
        paper = page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
        assert (int(paper[4:].split(",")[0]) < 128) == (scheme == "dark")
        page.set_viewport_size({"width": 360, "height": 640})
        check_width(page)
        choose(page, f"{long}.wav", SPEECH)
        said(page, "Done")
        check_width(page)
        page.locator(".word").last.click()
        check_width(page)
        choose(page, "no.wav", b"no audio")
        expect(page.get_by_role("alert")).to_be_visible()
        check_width(page)


def check_width(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    wide = (
        "e => e.filter(x => x.offsetParent && x.getBoundingClientRect().right > 360.5).map(x => x.outerHTML)"
    )
    assert page.locator("body *").evaluate_all(wide) == []


class Told(ToneTranslator):
    """Hears the same German and English in everything."""

    def __init__(self, german: str, english: str) -> None:
        super().__init__()
        self.texts = german, english

    def translate(self, source: Any, sample_rate: Any = None, **options: Any) -> Translation:
        german, english = self.texts
        words = tuple(Word(word, 0.5 + i, 1.4 + i, 0.3) for i, word in enumerate(german.split()))
        segment = Segment(german, words[0].start_s, words[-1].end_s, words, 0.3)
        transcript = Transcript((segment,), 3.0, warnings=(english,))
        return Translation((Segment(english, segment.start_s, segment.end_s, (), 0.5),), transcript)


def test_nothing_that_was_said_or_named_becomes_markup(open_page: Callable[..., Page]) -> None:
    markup = "<img src=x onerror=document.title='hit'><script>document.title='hit'</script>&amp;"
    with running_server(Told(markup, markup)) as running:
        page = open_page(running.url)
        choose(page, f"{markup.replace('/', '')}.wav", SPEECH)
        said(page, "Done")
        assert rows(page) == [(markup, markup)]
        expect(page.locator("#warnings")).to_have_text(markup)
        expect(page.locator("#of")).to_contain_text("<img")
        assert page.locator("img").count() == 0
        assert page.locator("script").count() == 1
        assert page.title() == "German speech to English"
        assert page.locator(".word.doubtful").count() == len(markup.split())


def test_the_key_is_asked_for_and_kept_in_the_tab_only(open_page: Callable[..., Page]) -> None:
    with running_server(ToneTranslator(), ServeSettings(api_keys=("right",))) as running:
        page = open_page(running.url.replace("127.0.0.1", "localhost"), "microphone")
        key = page.get_by_label("API key")
        for name in ("missing", "wrong"):
            if name == "wrong":
                key.fill(name)
            choose(page, "a.wav", SPEECH)
            expect(page.get_by_role("alert")).to_contain_text("The API key is missing or wrong.")
            expect(key).to_be_focused()
        page.get_by_role("button", name="Speak").click()
        expect(page.get_by_role("alert")).to_contain_text("The API key is missing or wrong.")
        key.fill("right")
        page.get_by_role("button", name="Try again").click()
        said(page, "Speak German now.")
        page.get_by_role("button", name="Stop").click()
        said(page, "No speech was found.")
        page.reload()
        choose(page, "a.wav", SPEECH)
        said(page, "Done: 6 words")
        assert [german for german, _ in rows(page)] == ["eins zwei drei", "drei zwei eins"]
        stored = page.evaluate(
            "[JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.cookie]"
        )
        assert json.loads(stored[0]) == {"speech-engine-key": "right"}
        assert stored[1:] == ["{}", ""]


def test_errors_say_what_to_do(open_page: Callable[..., Page]) -> None:
    bounds = ServeSettings(max_upload_bytes=1 << 20, max_duration_s=5)
    with running_server(ToneTranslator(), bounds) as running:
        page = open_page(running.url.replace("127.0.0.1", "localhost"))
        expect(page.get_by_text("Up to 1 MB and 5 s.")).to_be_visible()
        alert = page.get_by_role("alert")
        choose(page, "notes.txt", b"These are words, but written ones.")
        expect(alert).to_contain_text("This file cannot be used as a recording.")
        choose(page, "long.wav", SPEECH)
        expect(alert).to_contain_text("too long or too large. Up to 1 MB and 5 s.")
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.method))
        choose(page, "large.wav", b"RIFF" + bytes(3 << 20))
        expect(alert).to_contain_text("This file has 4 MB.")
        assert "POST" not in requests
        page.get_by_role("button", name="Speak").click()
        expect(alert).to_contain_text("The microphone was refused. Allow it")
    choose(page, "gone.wav", SPEECH)
    expect(alert).to_contain_text("The service cannot be reached.")


def test_it_waits_for_a_busy_service_and_can_be_cancelled(open_page: Callable[..., Page]) -> None:
    tones = ToneTranslator()
    tones.gate.clear()
    with running_server(tones, ServeSettings(max_running=1, max_pending=1)) as running:
        first, second = open_page(running.url), open_page(running.url)
        choose(first, "first.wav", SPEECH)
        assert tones.started.acquire(timeout=10)
        choose(second, "second.wav", SPEECH)
        said(second, "The service is busy. Next try in")
        first.get_by_role("button", name="Cancel").click()
        said(first, "Cancelled.")
        expect(first.get_by_role("alert")).to_be_hidden()
        assert tones.cancelled.wait(10)
        tones.gate.set()
        said(second, "Done: 6 words")
        wait_for(lambda: running.server.config.app.state.service.queue.pending == 0)


class GermanOnly(ToneTranslator):
    """A model without a translator."""

    def __init__(self) -> None:
        super().__init__()
        self.has_translator = False

    def translate(self, *_: Any, **__: Any) -> Translation:
        raise ModelCapabilityError("a model that cannot translate", "another", "transcribe")


def test_a_model_without_a_translator_shows_german_alone(open_page: Callable[..., Page]) -> None:
    with running_server(GermanOnly()) as running:
        page = open_page(running.url.replace("127.0.0.1", "localhost"), "microphone")
        choose(page, "a.wav", SPEECH)
        said(page, "Done: 6 words")
        assert rows(page)[0][0] == "eins zwei drei"
        expect(page.locator(".english").first).to_be_hidden()
        expect(page.get_by_label("Languages of the download")).to_have_value("de")
        name, content = download(page, "srt")
        assert (name, content.count(b" --> ")) == ("a.de.srt", 2)
        page.get_by_role("button", name="Speak").click()
        expect(page.locator(".word").first).to_be_visible()
        page.get_by_role("button", name="Stop").click()
        said(page, "Done: ")
        expect(page.locator(".english").first).to_be_hidden()


def test_a_dropped_file_is_taken(open_page: Callable[..., Page]) -> None:
    with running_server(ToneTranslator()) as running:
        page = open_page(running.url)
        data = page.evaluate_handle(
            "bytes => { const data = new DataTransfer();"
            " data.items.add(new File([new Uint8Array(bytes)], 'dropped.wav')); return data; }",
            list(SPEECH),
        )
        page.dispatch_event("#input", "drop", {"dataTransfer": data})
        said(page, "Done: 6 words")
        expect(page.locator("#of")).to_have_text("dropped.wav")


RESAMPLE = """async ([rate, hertz, size]) => {
  const { Resampler } = await import("/page/resampler.js");
  const made = new Resampler(rate, 24000), out = [];
  const wave = Float32Array.from({ length: rate / 2 }, (_, i) => Math.sin(2 * Math.PI * hertz * i / rate));
  for (let i = 0; i < wave.length; i += size) out.push(...made.push(wave.subarray(i, i + size)));
  out.push(...made.flush());
  return out;
}"""


def test_the_resampler_keeps_tones_and_drops_what_24_khz_cannot_hold(open_page: Callable[..., Page]) -> None:
    with running_server(ToneTranslator()) as running:
        page = open_page(running.url)
        for rate in (16_000, 44_100, 48_000):
            for hertz in (100, 1000, 6000):
                got = np.array(page.evaluate(RESAMPLE, [rate, hertz, 128]))
                assert abs(len(got) - 12_000) <= 1
                ideal = np.sin(2 * np.pi * hertz * np.arange(len(got)) / 24_000)
                assert np.abs(got - ideal)[200:-200].max() < 0.003, (rate, hertz)
        assert np.array(page.evaluate(RESAMPLE, [48_000, 1000, 1001])) == pytest.approx(
            np.array(page.evaluate(RESAMPLE, [48_000, 1000, 7])), abs=1e-5
        )
        assert np.abs(page.evaluate(RESAMPLE, [48_000, 15_000, 128]))[200:-200].max() < 0.001

"""The page at `/` without a browser: how it is served, and what its files hold."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import setuptools
from tone_service import ToneTranslator

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("multipart", reason="needs the extra [serve]")
pytest.importorskip("httpx", reason="needs httpx")

from starlette.testclient import TestClient

from engine.serve import ServeSettings, create_app
from engine.serve.page import FILES, FOLDER, PATHS, SETTINGS_PATH, path_of

ROOT = Path(__file__).resolve().parents[2]
VOID = {"meta", "link", "input", "br", "img", "rect", "path"}
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def source(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


SCRIPTS = [name for name in FILES if name.endswith(".js")]


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create_app(ToneTranslator())) as client:
        yield client


class Page(HTMLParser):
    """Every element with its attributes; fails on one that is not closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in <{tag}>"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def all(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_served_with_its_type_and_a_strict_policy(client: TestClient, name: str) -> None:
    answer = client.get(path_of(name))
    assert answer.status_code == 200
    assert answer.content == (FOLDER / name).read_bytes()
    assert answer.headers["content-type"].startswith(TYPES[Path(name).suffix])
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert not [rule for rule in policy.values() if "unsafe" in rule or "*" in rule or "http" in rule]


def test_a_file_that_a_browser_has_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/")
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for given in (tag, f"W/{tag}", f'"other", {tag}'):
        again = client.get("/", headers={"If-None-Match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get("/", headers={"If-None-Match": '"other"'}).status_code == 200
    head = client.head("/page/style.css")
    assert (head.status_code, head.content) == (200, b"")
    assert client.post("/").status_code == 405
    assert client.get("/page/__init__.py").status_code == 404
    assert client.get("/page/../../app.py").status_code == 404


def test_the_page_needs_no_key_and_says_whether_the_service_wants_one() -> None:
    bounds = ServeSettings(api_keys=("top-secret",), max_upload_bytes=5 << 20, max_duration_s=90)
    with TestClient(create_app(ToneTranslator(), bounds)) as client:
        assert {client.get(path).status_code for path in PATHS} == {200}
        assert client.get("/page").status_code == 401
        assert client.get("/v1/models").status_code == 401
        told = client.get(SETTINGS_PATH)
        assert told.headers["cache-control"] == "no-store"
        assert "top-secret" not in told.text
        content = told.json()
        assert content.pop("model")
        assert content == {"needs_key": True, "max_upload_bytes": 5 << 20, "max_duration_s": 90}


def test_without_keys_the_page_asks_for_none(client: TestClient) -> None:
    assert client.get(SETTINGS_PATH).json()["needs_key"] is False


def test_the_files_are_those_that_a_wheel_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(FILES)
    told: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", told.update)
    runpy.run_path(str(ROOT / "setup.py"))
    packaged = {
        path for pattern in told["package_data"]["engine"] for path in (ROOT / "engine").glob(pattern)
    }
    assert {FOLDER / name for name in FILES} <= packaged


def test_nothing_is_loaded_from_elsewhere() -> None:
    for name in FILES:
        text = source(name).replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?://|[\"'(]//|data:[a-z]+/|@import|wss?://", text), name
    page = Page(source("index.html"))
    for target in page.all("src") + page.all("href"):
        assert target.removeprefix("page/") in FILES
    for name in SCRIPTS:
        for imported in re.findall(r'(?:from|import\() ?"([^"]+)"', source(name)):
            assert imported.removeprefix("./") in FILES, name
        for loaded in re.findall(r'addModule\("page/([^"]+)"\)', source(name)):
            assert loaded in FILES


def test_text_never_becomes_markup_or_code() -> None:
    """The policy forbids it as well; so nothing would work that does it."""
    makers = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|DOMParser"
    for name in SCRIPTS:
        assert not re.search(makers, source(name)), name
    for tag, attributes in Page(source("index.html")).elements:
        assert not [each for each in attributes if each.startswith("on") or each == "style"], tag
        assert tag != "style"
        assert tag != "script" or "src" in attributes


def test_every_name_that_the_page_refers_to_is_there_once() -> None:
    page = Page(source("index.html"))
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    referred = page.all("for") + page.all("aria-describedby") + page.all("aria-labelledby")
    assert {name for names in referred for name in names.split()} <= set(ids)
    listed = re.search(r'const ids = "([^"]+)"', source("page.js"))
    assert listed
    used = listed[1].replace("\\\n", "").split()
    assert set(used) <= set(ids)
    assert set(re.findall(r"\bui\.(\w+)", source("page.js"))) <= set(used)
    assert set(re.findall(r'\bui\["([^"]+)"\]', source("page.js"))) <= set(used)


def test_everything_that_is_used_has_a_name() -> None:
    page = Page(source("index.html"))
    labels = set(page.all("for"))
    for tag, attributes in page.elements:
        if tag in ("input", "select"):
            assert attributes["id"] in labels
        if tag in ("progress", "meter", "section"):
            assert "aria-label" in attributes or "aria-labelledby" in attributes
        if tag == "button":
            assert attributes["type"] == "button"
        assert int(attributes.get("tabindex", 0)) <= 0, "the order of the page is the order of the Tab key"
    assert {"status", "alert"} <= set(page.all("role"))
    assert page.elements[0] == ("html", {"lang": "en"})


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_can_be_read_in_both_colour_schemes() -> None:
    """WCAG's contrast of at least 4.5 for every pair that is used together."""
    style = source("style.css")
    light = dict(re.findall(r"--([\w-]+): (#\w+);", style[: style.index("@media")]))
    dark = dict(re.findall(r"--([\w-]+): (#\w+);", style[style.index("@media") :]))
    assert light.keys() == dark.keys()
    pairs = [(ink, paper) for ink in ("ink", "quiet", "doubt") for paper in ("paper", "sheet")]
    pairs += [("on-accent", "accent"), ("ink", "wash"), ("ink", "wrong-wash"), ("quiet", "wrong-wash")]
    for scheme in (light, dark):
        for front, back in pairs:
            bright, dim = sorted((luminance(scheme[front]), luminance(scheme[back])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (front, back)

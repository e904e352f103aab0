"""`engine wyoming`: its options, what is missing, and how Home Assistant finds it in a network."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("wyoming", reason="needs the extra [wyoming]")

import docs_reader
from tone_wyoming import ToneStreams, running

from engine.cli import main
from engine.cli.parser import build_parser
from engine.cli.wyoming import read_address, read_settings
from engine.errors import DependencyError, OptionError
from engine.serve.errors import BusyError, EventError, RequestTimeoutError, ShuttingDownError
from engine.serve.wyoming import WyomingSettings, protocol
from engine.serve.wyoming.discovery import KIND, advertised, check_name, default_name, find_address


def options(*words: str) -> Any:
    return build_parser().parse_args(["wyoming", *words])


@pytest.mark.parametrize(
    ("words", "address"),
    [
        ([], ("127.0.0.1", 10_300)),
        (["--host", "0.0.0.0"], ("0.0.0.0", 10_300)),
        (["--port", "0"], ("127.0.0.1", 0)),
        (["--uri", "tcp://0.0.0.0:10300"], ("0.0.0.0", 10_300)),
        (["--uri", "tcp://[::1]:7/"], ("::1", 7)),
    ],
)
def test_the_address_is_said_in_either_way(words: list[str], address: tuple[str, int]) -> None:
    assert read_address(options(*words)) == address


@pytest.mark.parametrize(
    "words",
    [
        ["--uri", "unix:///tmp/a"], ["--uri", "stdio://"], ["--uri", "tcp://host"], ["--uri", "tcp://:1"],
        ["--uri", "tcp://host:99999"], ["--uri", "tcp://[::1:7"], ["--uri", "tcp://host:1/path"],
        ["--uri", ""],
        ["--uri", "tcp://host:1", "--port", "1"], ["--uri", "tcp://host:1", "--host", "host"],
    ],
    ids=lambda words: " ".join(words),
)  # fmt: skip
def test_an_address_that_is_none_is_refused(words: list[str]) -> None:
    with pytest.raises(OptionError, match="--uri"):
        read_address(options(*words))


def test_the_command_hands_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    tones, served = ToneStreams(), list[Any]()
    monkeypatch.setattr("engine.cli.wyoming.load_model", lambda options: tones)
    monkeypatch.setattr("engine.cli.wyoming.warm_up", lambda *given: None)
    monkeypatch.setattr("engine.serve.logs.configure_logs", lambda log_format: None)
    monkeypatch.setattr("engine.serve.wyoming.WyomingServer.run", lambda *given: served.extend(given))
    words = "--port 0 --task translate --pause_s 0.4 --end_at_pause --hotwords Stehlampe,Küche --passes 1"
    more = (
        "--numbers words --punctuation false --full_stop true --max_clients 3 --max_duration_s 9 --drain_s 2"
    )
    assert main(["wyoming", *words.split(), *more.split()]) == 0
    server, (sock,), advert = served
    sock.close()
    settings, decoding = server.settings, server.settings.decoding
    assert (settings.task, settings.ends_at_pause, settings.full_stop) == ("translate", True, True)
    assert (settings.max_clients, settings.max_duration_s, settings.drain_s) == (3, 9, 2.0)
    assert (settings.endpoint.pause_s, settings.endpoint.partial_interval_s) == (0.4, 60.0)
    assert decoding.hotwords == ("Stehlampe", "Küche") and decoding.passes == 1
    assert (decoding.numbers, decoding.punctuation) == ("words", False)
    assert server.recogniser is tones and advert is None


def test_the_defaults_are_those_of_a_voice_assistant() -> None:
    settings = read_settings(options())
    assert settings.decoding.numbers == "digits" and settings.decoding.punctuation
    assert (settings.task, settings.full_stop, settings.ends_at_pause) == ("transcribe", False, False)


def test_a_package_that_is_missing_is_named_with_the_way_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("engine.serve.wyoming")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "wyoming.asr", None)
    assert main(["wyoming", "--port", "0"]) == 1
    said = capsys.readouterr().err
    assert "[wyoming]" in said and "pip install" in said and "Traceback" not in said


def test_zeroconf_needs_its_package_and_an_address_that_others_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    async def announce() -> None:
        async with advertised("engine", "127.0.0.1", 1):
            pass

    with pytest.raises(OptionError, match=r"--host 0\.0\.0\.0"):
        asyncio.run(announce())
    assert main(["wyoming", "--port", "0", "--zeroconf"]) == 1
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    with pytest.raises(DependencyError, match=r"\[zeroconf\]"):
        asyncio.run(announce())


@pytest.mark.parametrize("name", ["", " ", "a.b", "a\nb", "ä" * 32])
def test_names_that_are_no_label_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match="--zeroconf"):
        check_name(name)
    assert check_name(default_name())


def test_a_server_is_found_in_the_network_until_it_ends() -> None:
    zeroconf = pytest.importorskip("zeroconf", reason="needs the extra [zeroconf]")
    from zeroconf.asyncio import AsyncZeroconf

    try:
        address = find_address("0.0.0.0")
    except OptionError as error:
        pytest.skip(f"no network: {error}")

    async def look(name: str, wait_ms: int) -> Any:
        network = AsyncZeroconf(interfaces=[address], ip_version=zeroconf.IPVersion.V4Only)
        try:
            return await network.async_get_service_info(KIND, f"{name}.{KIND}", timeout=wait_ms)
        finally:
            await network.async_close()

    async def announce() -> None:
        async with advertised("engine test", "0.0.0.0", 10_399) as name:
            found = await look(name, 10_000)
            if found is None:
                pytest.skip("multicast does not come back here")
            assert found.port == 10_399 and found.parsed_addresses() == [address]
        assert await look(name, 500) is None

    asyncio.run(announce())


def test_the_health_check_of_the_image_asks_the_server() -> None:
    text = (docs_reader.ROOT / "docker" / "Dockerfile.wyoming").read_text(encoding="utf-8")
    found = re.search(r"^HEALTHCHECK .*\\\n +CMD (.*)$", text, re.MULTILINE)
    assert found and re.search(r"^EXPOSE 10300$", text, re.MULTILINE)
    program, *arguments = json.loads(found[1])
    assert program == "python" and "10300" in arguments[-1]

    def check(port: int) -> int:
        command = [sys.executable, *(word.replace("10300", str(port)) for word in arguments)]
        return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode

    with running(ToneStreams()) as server:
        assert check(server.port) == 0
    assert check(server.port) != 0


def test_the_page_names_every_option_error_and_bound() -> None:
    page = (docs_reader.ROOT / "docs" / "voice-assistants.md").read_text(encoding="utf-8")
    shared = {"--model", "--passes", "--beam_size", "--threads", "--device", "--compute_type", "--backend"}
    given = {f"--{name}" for name in vars(options()) if name not in ("command", "run", "language")}
    assert {name for name in given - shared if f"`{name}" not in page} == set()
    usual = WyomingSettings()
    for said in (
        f"of more than {usual.max_event_bytes >> 20} MiB",
        f"| {usual.max_waiting_bytes >> 20} MiB a connection",
        f"| {usual.max_hotwords:,}, of {usual.max_hotword_chars} characters each",
        f" and {usual.max_hotwords_chars:,} in all",
        f"| {usual.idle_s / 60:g} minutes |",
        f"does not go on for {usual.stall_s:g} s",
        f"| {usual.write_timeout_s:g} s |",
        f"| {protocol.LINE_BYTES >> 10} KiB |",
        f"after {usual.max_silence_s:g} s\nwithout a voice",
        *(
            f"| `{code.__name__}` |"
            for code in (EventError, RequestTimeoutError, BusyError, ShuttingDownError)
        ),
    ):
        assert said in page, said

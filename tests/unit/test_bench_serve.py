"""`engine-bench serve` against a real server over tones: what it counts, and that it finds what is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")
pytest.importorskip("prometheus_client", reason="needs the extra [serve]")

from tone_service import Running, ToneTranslator, running_server, wait_for

from benchmarks.cli import main
from benchmarks.errors import BenchmarkError, MeasurementError
from benchmarks.load import disturbers, leaving, loops, parts, requests, sessions
from benchmarks.load.client import Answer, Client, Tally, spread
from benchmarks.load.queue import simulate_queue
from benchmarks.load.requests import CONTAINERS, FORMS, TRANSCRIBE, Kind
from benchmarks.load.service import ChildService, Service
from benchmarks.options import Progress
from benchmarks.studies import serve
from engine.serve import ServeSettings
from tests.reference.tone_speech import silence, speak

SPOKEN = np.concatenate([silence(0.2), speak("eins zwei drei drei zwei eins", pause_s=0.1), silence(0.2)])


class Tones(ToneTranslator):
    """Takes channels that are kept apart, of which there is one."""

    def transcribe(self, source: np.ndarray, *arguments: Any, **options: Any) -> Any:
        return super().transcribe(source.reshape(-1), *arguments, **options)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with running_server(Tones()) as found:
        yield found


@pytest.fixture(scope="module")
def bench(running: Running) -> parts.Bench:
    kinds = requests.make_kinds([SPOKEN], 13)
    service = Service(running.url)
    right = parts.learn(service, kinds, Progress(True))
    long_audio = requests.long_recording([SPOKEN], 90.0)
    return parts.Bench(service, kinds, right, long_audio, Progress(True))


def test_twenty_clients_get_what_one_gets(bench: parts.Bench) -> None:
    found = parts.closed(bench, 20, 3)
    assert (found["n"], found["statuses"], found["n_wrong"]) == (60, {"200": 60}, 0), found["wrong"]
    assert found["rss_mb"][-1][0] == 60 and found["rss_mb"][-1][1] > 10
    assert found["latency_ms"]["p50"] <= found["latency_ms"]["p95"] <= found["latency_ms"]["max"]


def test_requests_that_come_when_they_come_are_all_answered(bench: parts.Bench) -> None:
    found = parts.loaded(bench, 0.5, 0.5, 5)
    assert found["n_wrong"] == 0 and found["n"] == found["statuses"]["200"] >= 1
    assert found["rate_per_s"] == pytest.approx(0.5 * found["capacity_per_s"])
    assert found["paced"]["n_wrong"] == 0 and found["paced"]["clients"] == 5
    result = {"signature": "a", "alone": {"n": 1, "latency_ms": None}, "load": [found]}
    assert ", 5 clients" in serve.render(result)


def test_clients_that_pause_ask_as_often_as_they_should(bench: parts.Bench) -> None:
    tally, took_s = loops.run_paced(
        bench.service, bench.kinds, bench.right, clients=4, pause_s=0.05, seconds=2.0, tick=lambda: None
    )
    assert tally.n_wrong == 0 and tally.statuses["200"] == len(tally.seconds)
    cycle_s = 4 * took_s / len(tally.seconds)  # of one client: a pause and an answer
    assert cycle_s == pytest.approx(0.05 + np.mean(tally.seconds), rel=0.3)


def test_clients_without_a_pause_ask_for_all_kinds_alike(
    bench: parts.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also as many kinds as would have every client begin with the same one."""
    asked: list[str] = []
    monkeypatch.setattr(loops.Tally, "ask", lambda self, client, kind, *rest: asked.append(kind.name))
    kinds = [dataclasses.replace(bench.kinds[0], name=str(i)) for i in range(40)]
    loops.run_closed(
        bench.service, kinds, bench.right, clients=8, requests=1_000_000, tick=lambda: None,
        until=lambda: len(asked) >= 160,
    )  # fmt: skip
    assert set(asked) == {kind.name for kind in kinds}


def test_a_service_that_answers_nothing_is_no_measurement(
    bench: parts.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = Answer(500, b"broken", None, 0.0)
    monkeypatch.setattr(Client, "ask", lambda self, kind: refused)
    with pytest.raises(MeasurementError, match=r"no answer of \d+ requests"):
        parts.loaded(bench, 0.5, 0.5, 5, capacity=20.0)


def test_live_sessions_hear_what_one_hears(bench: parts.Bench) -> None:
    (found,) = parts.sessions(bench, [SPOKEN], [3], 4.0)
    assert (found["sessions"], found["n_wrong"], found["wrong"]) == (3, 0, [])
    assert found["n_finals"] >= 3 and found["n_partials"] >= 3
    for kind in ("partial", "final"):
        assert 0 <= found[f"{kind}_lag_ms"]["p50"] <= found[f"{kind}_lag_ms"]["max"]
    shown = serve.render({"signature": "a", "alone": {"n": 1, "latency_ms": None}, "sessions": [found]})
    assert "live sessions" in shown
    (wrong,) = [sessions.live(bench.service, sessions.make_talks([SPOKEN], 4.0), [["acht"]] * 4, 1)]
    assert wrong["n_wrong"] == 1 and "acht" in wrong["wrong"][0]
    assert serve.problems({"sessions": [wrong]}, 20.0) == wrong["wrong"]


def test_clients_that_leave_are_in_work_before(bench: parts.Bench, running: Running) -> None:
    (talk, *_) = sessions.make_talks([SPOKEN], 600.0)
    sock = leaving.session(bench.service, talk)()
    bench.service.wait_for("realtime_sessions", lambda n: n == 1)
    sock.shutdown(socket.SHUT_RDWR)
    sock.close()
    bench.service.wait_for("realtime_sessions", lambda n: n == 0)
    pytest.importorskip("wyoming", reason="needs the extra [wyoming]")
    from tone_wyoming import ToneStreams
    from tone_wyoming import running as running_wyoming

    with running_wyoming(ToneStreams()) as server:
        service = Service(f"http://127.0.0.1:{server.port}", os.getpid())  # type: ignore[attr-defined]
        sock = leaving.wyoming(service, talk)()
        wait_for(lambda: any(not client.is_idle for client in server._clients))
        sock.close()
        wait_for(lambda: not server._clients)


def test_a_client_that_leaves_too_late_is_no_measurement(bench: parts.Bench) -> None:
    class Idle(Service):
        def cpu_s(self) -> float:
            return 0.0

    service = Idle(bench.service.url)
    begin = leaving.request(service, Kind("a", TRANSCRIBE, requests.form(b"no audio", {})))
    with pytest.raises(MeasurementError, match="a that ends before anybody leaves"):
        leaving.leave(service, "a", begin, 1e6, most_idle_s=0.5)


def test_the_capacity_can_be_given(bench: parts.Bench) -> None:
    found = parts.loaded(bench, 0.5, 0.5, 3, 40.0)
    assert (found["n"], found["n_wrong"], found["rate_per_s"]) == (10, 0, 20.0)
    assert found["capacity_cores"] is None and found["cores"]["clients"] > 0


def test_uploads_that_do_not_end_are_there_and_do_no_harm(bench: parts.Bench, running: Running) -> None:
    uploads = running.server.config.app.state.service.uploads
    with disturbers.disturbing(bench.service, n_slow=5, n_endless=2, bytes_per_s=2e6) as sent:
        bench.service.wait_for("uploads", lambda n: n == 7)
        assert len(uploads) == 7
        tally, _ = loops.run_closed(
            bench.service, bench.kinds, bench.right, clients=2, requests=3, tick=lambda: None
        )
    assert (tally.statuses, tally.n_wrong) == ({"200": 6}, 0)
    assert sent.n_connections >= 7
    bench.service.wait_for("uploads", lambda n: n == 0)


def test_a_long_file_is_in_work_beside_short_ones() -> None:
    translator = ToneTranslator()
    with running_server(translator, ServeSettings(max_running=1)) as running:
        service = Service(running.url)
        kinds = requests.make_kinds([SPOKEN], 3)
        right = parts.learn(service, kinds, Progress(True))
        long = Kind("long", TRANSCRIBE, requests.form(requests.long_recording([SPOKEN], 70.0), {}))
        held = Held(translator, 60.0)
        with disturbers.in_work(service, [long, long]) as done:
            assert held.reached.wait(20)
            tally, _ = loops.run_closed(service, kinds, right, clients=1, requests=3, tick=lambda: None)
            assert not done.is_set()
        assert (tally.statuses, tally.n_wrong) == ({"200": 3}, 0)
        assert held.cancelled.wait(20)


class Held:
    """Recordings longer than so many seconds wait until they are cancelled."""

    def __init__(self, translator: Any, over_s: float) -> None:
        self.reached, self.cancelled = threading.Event(), threading.Event()
        plain = translator.transcribe

        def transcribe(source: np.ndarray, *arguments: Any, cancel: Any, **options: Any) -> Any:
            if len(source) > over_s * 16_000:
                self.reached.set()
                while not cancel.cancelled:
                    time.sleep(0.01)
                self.cancelled.set()
            return plain(source, *arguments, cancel=cancel, **options)

        translator.transcribe = transcribe


def test_texts_that_depend_on_other_clients_are_found() -> None:
    translator, busy = ToneTranslator(), [0]
    plain = translator.transcribe

    def transcribe(source: np.ndarray, *arguments: Any, **options: Any) -> Any:
        busy[0] += 1
        try:
            time.sleep(0.05)
            return plain(source[: len(source) // 2] if busy[0] > 1 else source, *arguments, **options)
        finally:
            busy[0] -= 1

    translator.transcribe = transcribe  # type: ignore[method-assign]
    with running_server(translator) as running:
        kind = Kind("a", TRANSCRIBE, requests.form(requests.encode(SPOKEN, "WAV"), {}))
        service = Service(running.url)
        right = parts.learn(service, [kind], Progress(True))
        found = parts.closed(parts.Bench(service, [kind], right, b"", Progress(True)), 4, 3)
    assert 0 < found["n_wrong"] <= 12 and "sequential" in found["wrong"][0]
    assert len(serve.problems({"closed": found}, 20.0)) > 0


def test_a_busy_service_is_asked_again_and_any_other_answer_is_wrong() -> None:
    answers = [
        Answer(503, b"", "0", 0.1), Answer(200, b"eins", None, 0.1), Answer(503, b"", None, 0.1),
        Answer(500, b"", None, 0.1), Answer(0, b"", None, 0.1), Answer(200, b"zwei", None, 0.1),
    ]  # fmt: skip

    class Scripted(Client):
        def __init__(self) -> None:
            pass

        def ask(self, kind: Kind) -> Answer:
            return answers.pop(0)

    tally, kind = Tally(), Kind("a", TRANSCRIBE, b"")
    for _ in range(5):
        tally.ask(Scripted(), kind, {"a": Answer(200, b"eins", None, 0.05)}, time.perf_counter())
    assert answers == []
    assert tally.statuses == {"503": 1, "200": 2, "503 without Retry-After": 1, "500": 1, "broken": 1}
    assert (tally.n_wrong, len(tally.seconds)) == (4, 2)


def test_kinds_are_many_and_the_same_in_every_run() -> None:
    n = len(FORMS) * len(CONTAINERS)
    kinds = requests.make_kinds([SPOKEN], n)
    assert len({kind.name.partition(" ")[2] for kind in kinds}) == n
    again = requests.make_kinds([SPOKEN], n)
    assert [kind.name for kind in kinds] == [kind.name for kind in again]
    same = [
        kind.body == other.body for kind, other in zip(kinds, again, strict=True) if "OGG" not in kind.name
    ]
    assert all(same)  # the serial numbers of Ogg files are drawn at random


def test_a_queue_of_cores_is_that_of_a_textbook() -> None:
    """Erlang's formula for exponential times on one core: the time in the system is exponential too."""
    rng = np.random.default_rng(0)
    found = simulate_queue(rng.exponential(1.0, 200_000), share=0.8, cores=1)
    assert found["mean"] == pytest.approx(5.0, rel=0.1)  # 1 / (1 - 0.8)
    assert found["p95"] == pytest.approx(5.0 * np.log(20), rel=0.1)
    idle = simulate_queue(np.ones(1000), share=0.001, cores=2)
    assert idle["p95"] == pytest.approx(1.0)
    assert spread([]) is None


def test_the_command_line(running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    options = ["serve", "--url", running.url, "--clients", "3", "--requests", "2", "--kinds", "4", "--quiet"]
    assert (
        main([*options, "--parts", "closed,uploads", "--slow", "2", "--endless", "1", "--json", str(out)])
        == 0
    )
    result = json.loads(out.read_text(encoding="utf-8"))
    assert {"signature", "environment", "command", "commit", "time"} <= set(result)
    assert result["closed"]["statuses"] == {"200": 6}
    shown = capsys.readouterr().out
    assert "3 clients" in shown and "with uploads" in shown
    assert serve.problems({"closed": {"n_wrong": 0, "rss_growth_mb": 21.0}}, 20.0) == ["21 MB more memory"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--url", "http://example.org:80"], "127.0.0.1"),
        (["--url", "http://127.0.0.1:1"], "does not answer|refused"),
        (["--clients", "100000"], "at most"),
        (["--load", "0"], "--load"),
        (["--capacity", "0"], "--capacity"),
    ],
)
def test_loads_without_bounds_and_other_machines_are_refused(
    options: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--quiet", *options]) == 2
    told = capsys.readouterr().err
    assert any(part in told for part in word.split("|"))


def test_a_service_that_does_not_start_says_why() -> None:
    with pytest.raises(MeasurementError, match="expected a whole number"):
        ChildService(["--threads", "x"])
    with pytest.raises(BenchmarkError):
        Service("https://127.0.0.1:1")


TONES = """
import sys
sys.path.insert(0, "tests/unit")
import engine.cli.serve
from engine.cli import main
from tone_service import ToneTranslator
engine.cli.serve.load_model = lambda options: ToneTranslator()
engine.cli.serve._load_all = lambda *_: None
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc on this system")
def test_a_child_is_measured_and_ends_with_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    with ChildService(["--threads", "1"], ("-c", TONES)) as service:
        assert service.pid is not None and service.rss_mb() > 10
        assert service.cpu_s() > 0
        kind = Kind("a", TRANSCRIBE, requests.form(requests.encode(SPOKEN, "WAV"), {}))
        with Client(service) as client:
            assert client.ask(kind).status == 200
        service.wait_idle()
    with pytest.raises(ProcessLookupError):
        os.kill(service.pid, 0)

"""A step with its count: a signal in it is handled after it, and none is lost."""

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from engine.runtime.interrupts import SIGNALS, Stopped, signals_held


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    """Python's own, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_in_a_step_comes_after_it() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt):
        with signals_held():
            interrupt()
            done.append("file")
            done.append("count")
        done.append("next")
    assert done == ["file", "count"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_signal_does_not_wait() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), signals_held():
        interrupt()
        done.append("file")
        interrupt()
        done.append("count")
    assert done == ["file"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_handler_itself_runs_at_once() -> None:
    """It tells other threads to end, and starts the time that is left."""
    done = []

    def handler(number: int, frame: object) -> None:
        done.append("handler")
        raise Stopped(number)

    signal.signal(signal.SIGINT, handler)
    with pytest.raises(Stopped), signals_held():
        interrupt()
        done.append("file")
    assert done == ["handler", "file"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_handler_that_raises_nothing_ends_nothing() -> None:
    done = []
    signal.signal(signal.SIGINT, lambda number, frame: done.append(number))
    with signals_held():
        interrupt()
        interrupt()
    assert done == [signal.SIGINT, signal.SIGINT]


def test_all_handlers_come_back_although_a_signal_comes_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    set_handler, before = signal.signal, {number: signal.getsignal(number) for number in SIGNALS}

    def interrupted(number: int, handler: Any) -> Any:
        found = set_handler(number, handler)
        if number == SIGNALS[0] and handler is before[number]:
            raise KeyboardInterrupt
        return found

    with pytest.raises(KeyboardInterrupt), signals_held():
        monkeypatch.setattr(signal, "signal", interrupted)
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


def test_an_error_of_the_step_is_raised_and_the_signal_is_its_context() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, signals_held():
        interrupt()
        raise OSError("no space")
    assert isinstance(caught.value.__context__, OSError)


def test_without_a_signal_nothing_changes() -> None:
    with signals_held():
        pass
    with pytest.raises(OSError, match="no space"), signals_held():
        raise OSError("no space")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ignored_signals_stay_ignored_and_other_threads_hold_none() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with signals_held():
        interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    handlers = []

    def work() -> None:
        with signals_held():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join()
    assert handlers == [before]

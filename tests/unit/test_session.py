"""Thread budget, devices and the two wheels that overwrite each other."""

import importlib.metadata

import pytest

from engine import session
from engine.errors import CancelledError, DependencyError, DeviceError, OptionError
from engine.types import RuntimeOptions


@pytest.mark.parametrize(
    ("content", "cores"),
    [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("garbage", 8), ("", 8)],
)
def test_cores_follow_the_cgroup_quota(tmp_path, monkeypatch, content: str, cores: int) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text(content)
    monkeypatch.setattr(session, "CGROUP_QUOTA", quota)
    monkeypatch.setattr(session, "CGROUP_V1_QUOTA", tmp_path / "absent")
    monkeypatch.setattr(session.os, "sched_getaffinity", lambda _: set(range(8)))
    assert session.available_cores() == cores


def test_cores_follow_the_older_cgroup_too(tmp_path, monkeypatch) -> None:
    (tmp_path / "quota").write_text("300000")
    (tmp_path / "period").write_text("100000")
    monkeypatch.setattr(session, "CGROUP_QUOTA", tmp_path / "absent")
    monkeypatch.setattr(session, "CGROUP_V1_QUOTA", tmp_path / "quota")
    monkeypatch.setattr(session, "CGROUP_V1_PERIOD", tmp_path / "period")
    monkeypatch.setattr(session.os, "sched_getaffinity", lambda _: set(range(8)))
    assert session.available_cores() == 3


def test_cuda_without_a_device_is_an_error_that_names_the_mend(monkeypatch) -> None:
    monkeypatch.setattr(session, "cuda_present", lambda: False)
    with pytest.raises(DeviceError, match="--device cpu"):
        session.resolve_device(RuntimeOptions(device="cuda"))
    assert session.resolve_device(RuntimeOptions(device="auto")) == "cpu"


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(OptionError, match="tpu"):
        session.resolve_device(RuntimeOptions(device="tpu"))


def test_both_wheels_at_once_are_reported_with_the_mend(monkeypatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")
    session._onnxruntime.cache_clear()
    try:
        with pytest.raises(DependencyError, match="pip uninstall") as caught:
            session._onnxruntime()
        assert isinstance(caught.value, ImportError)
    finally:
        monkeypatch.undo()
        session._onnxruntime.cache_clear()
        session._onnxruntime()


def test_a_cancelled_token_stops_before_it_starts() -> None:
    token = session.CancelToken()
    token.raise_if_cancelled()
    token.cancel()
    with pytest.raises(CancelledError):
        token.raise_if_cancelled()

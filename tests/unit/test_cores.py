"""The thread budget from made-up /proc and cgroup trees of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.runtime import cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(8)))


def make_proc(tmp_path: Path, groups: str, mounts: list[tuple[str, str, str]]) -> Path:
    """proc/self with a cgroup file and mounts of (root, folder below tmp_path, "type options")."""
    proc = tmp_path / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(groups)
    lines = []
    for root, folder, kind in mounts:
        name, _, options = kind.partition(" ")
        lines.append(f"31 23 0:28 {root} {tmp_path / folder} rw - {name} {name} rw,{options}".rstrip(","))
    (proc / "mountinfo").write_text("\n".join(lines))
    return proc


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("max 100000", 8),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("garbage", 8),
        ("", 8),
        ("900000 0", 8),
        ("3200000 100000", 8),
    ],
)
def test_version_2_quota_of_the_own_group(tmp_path: Path, content: str, expected: int) -> None:
    write(tmp_path / "cg/app/cpu.max", content)
    proc = make_proc(tmp_path, "0::/app\n", [("/", "cg", "cgroup2")])
    assert cores.available_cores(proc) == expected


@pytest.mark.parametrize("level", ["", "/pod", "/pod/job", "/pod/job/app"])
def test_version_2_quota_of_any_parent_counts(tmp_path: Path, level: str) -> None:
    for folder in ("", "/pod", "/pod/job", "/pod/job/app"):
        write(tmp_path / f"cg{folder}/cpu.max", "300000 100000" if folder == level else "max 100000")
    proc = make_proc(tmp_path, "0::/pod/job/app\n", [("/", "cg", "cgroup2")])
    assert cores.available_cores(proc) == 3


def test_the_smallest_quota_of_nested_groups_decides(tmp_path: Path) -> None:
    write(tmp_path / "cg/pod/cpu.max", "200000 100000")
    write(tmp_path / "cg/pod/app/cpu.max", "600000 100000")
    proc = make_proc(tmp_path, "0::/pod/app\n", [("/", "cg", "cgroup2")])
    assert cores.available_cores(proc) == 2


def test_version_1_quota_sits_on_a_parent_group(tmp_path: Path) -> None:
    write(tmp_path / "cpu/docker/cpu.cfs_quota_us", "250000")
    write(tmp_path / "cpu/docker/cpu.cfs_period_us", "100000")
    write(tmp_path / "cpu/docker/x/cpu.cfs_quota_us", "-1")
    write(tmp_path / "cpu/docker/x/cpu.cfs_period_us", "100000")
    groups = "9:name=systemd:/\n4:memory:/docker/x\n2:cpu,cpuacct:/docker/x\n0::/\n"
    mounts = [("/", "memory", "cgroup memory"), ("/", "cpu", "cgroup cpu,cpuacct"), ("/", "none", "cgroup2")]
    assert cores.available_cores(make_proc(tmp_path, groups, mounts)) == 3


@pytest.mark.parametrize("group", ["/host/path/of/container", "/../../other", "/"])
def test_inside_a_container_the_mounts_root_is_the_own_group(tmp_path: Path, group: str) -> None:
    write(tmp_path / "cg/cpu.max", "400000 100000")
    proc = make_proc(tmp_path, f"0::{group}\n", [("/host/path/of/container", "cg", "cgroup2")])
    assert cores.available_cores(proc) == 4


def test_without_cgroups_affinity_decides(tmp_path: Path) -> None:
    assert cores.available_cores(tmp_path / "missing") == 8
    (tmp_path / "cgroup").write_bytes(b"\xff\xfe:\n:::\n1\n")
    (tmp_path / "mountinfo").write_text("- cgroup2\nshort\n")
    assert cores.available_cores(tmp_path) == 8

"""How many cores this process may use: CPU affinity, capped by the quotas of its cgroup and all its parents.

onnxruntime and numba look at affinity only; in a container with a quota they start too many threads.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC_SELF = Path("/proc/self")


def available_cores(proc: Path | None = None) -> int:
    """Cores to plan for, at least 1: the budget that all stages share.

    Args:
        proc: where cgroup and mountinfo lie; /proc/self where None.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    quota = cgroup_quota(proc or PROC_SELF)
    return max(1, min(cores, math.ceil(quota))) if quota else max(1, cores)


def cgroup_quota(proc: Path) -> float | None:
    """The smallest quota, in cores, on the way from this process's cgroup to the root; None without any."""
    quotas = [quota for folder, version in _folders(proc) if (quota := _read_quota(folder, version))]
    return min(quotas, default=None)


def _folders(proc: Path) -> Iterator[tuple[Path, int]]:
    """(folder, cgroup version) of every cgroup of this process that may limit its processor time."""
    groups = dict(_groups(proc / "cgroup"))
    for mount_root, mount_point, version in _mounts(proc / "mountinfo"):
        if version not in groups:
            continue
        # In a container the path may be the host's, of which only what lies below the mount's root is seen.
        path = PurePosixPath(groups[version])
        inside = path.relative_to(mount_root) if path.is_relative_to(mount_root) else PurePosixPath()
        if ".." in inside.parts:
            inside = PurePosixPath()
        folder = mount_point / inside
        while True:
            yield folder, version
            if folder == mount_point:
                break
            folder = folder.parent


def _groups(path: Path) -> Iterator[tuple[int, str]]:
    """(cgroup version, path of the group that counts processor time); lines are id:controllers:path."""
    for line in _lines(path):
        _, controllers, group = (*line.split(":", 2), "", "")[:3]
        if controllers == "" and group:
            yield 2, group
        elif "cpu" in controllers.split(","):
            yield 1, group


def _mounts(path: Path) -> Iterator[tuple[str, Path, int]]:
    """(root, mount point, cgroup version) of the mounted cgroup trees that hold processor quotas."""
    for line in _lines(path):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or not kind:
            continue
        if kind[0] == "cgroup2":
            yield fields[3], Path(fields[4]), 2
        elif kind[0] == "cgroup" and "cpu" in kind[-1].split(","):
            yield fields[3], Path(fields[4]), 1


def _read_quota(folder: Path, version: int) -> float | None:
    """In cores; None where there is no limit, or nothing that can be read."""
    if version == 2:
        words = " ".join(_lines(folder / "cpu.max")).split()
    else:
        words = [*_lines(folder / "cpu.cfs_quota_us"), *_lines(folder / "cpu.cfs_period_us")]
    try:
        quota, period = (int(word) for word in words[:2])  # "max" is no number
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []

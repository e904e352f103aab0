"""Whether other users could have put code into a folder: compiled kernels are run as they are found."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MAX_LINKS = 40
ALL_USERS = ["0", "0", "4294967295"]  # the map of a process outside of user namespaces
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def find_distrusted(folder: Path, inside: Path | None = None) -> Path | None:
    """The first folder or link on the way to a folder that another user could exchange.

    Every part of the way must belong to this user or to root, and be writable by no others; a folder with the
    sticky bit, as /tmp, may lie on the way. What does not exist yet is trusted.

    Args:
        folder: where compiled code is looked for.
        inside: of the package, whose sources are run anyway: what lies below needs no more than its rights.
    Returns:
        None where the folder can be trusted, and on systems without such rights.
    """
    if not hasattr(os, "geteuid"):
        return None
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - absolute() keeps "..", behind which a link may be
    measure = inside.stat() if inside is not None and folder.is_relative_to(inside) else None
    for path, status in _walk(folder):
        if measure is not None and inside is not None and inside.is_relative_to(path):
            continue
        if measure is not None and _is_like(status, measure):
            continue
        sticky = bool(status.st_mode & stat.S_ISVTX) and path != folder
        if status.st_uid not in _owners():
            return path
        if not stat.S_ISLNK(status.st_mode) and not sticky and _others_write(status):
            return path
    return None


def _walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every folder and link that is passed on the way, with its own status; ends at what does not exist."""
    todo, path, n_links = [*folder.parts[::-1]], Path(), 0
    while todo and n_links <= MAX_LINKS:
        path = Path(os.path.normpath(path / todo.pop()))
        try:
            status = path.lstat()
        except OSError:
            return
        yield path, status
        if stat.S_ISLNK(status.st_mode):
            n_links += 1
            todo += path.readlink().parts[::-1]
            path = path.parent


def _owners() -> tuple[int, ...]:
    """This user and root; in a user namespace, as of a rootless container, root has another number."""
    with suppress(OSError, ValueError):
        if Path("/proc/self/uid_map").read_text(encoding="ascii").split() != ALL_USERS:
            return 0, os.geteuid(), int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))
    return 0, os.geteuid()


def _is_like(status: os.stat_result, measure: os.stat_result) -> bool:
    """The same owner and group, and no more rights."""
    same = (status.st_uid, status.st_gid) == (measure.st_uid, measure.st_gid)
    more = stat.S_IMODE(status.st_mode) & ~stat.S_IMODE(measure.st_mode)
    return same and not stat.S_ISLNK(status.st_mode) and not more & OTHERS_WRITE


def _others_write(status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _is_own_group(status.st_gid)


def _is_own_group(group: int) -> bool:
    """Whether a group is root's or has this user only: many systems make such a one for each user."""
    if group == 0:
        return True
    try:
        import grp
        import pwd

        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except (ImportError, KeyError):
        return False
    return (
        found.gr_gid == user.pw_gid and found.gr_name == user.pw_name and set(found.gr_mem) <= {user.pw_name}
    )

"""Control groups that hold one rank for the length of a block. Version 2 where it has what is asked
for, else version 1; both exist side by side on many machines."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
from collections.abc import Iterator

from tests.trace.faults.processes import wait_until

PERIOD_US = 100_000


def _mounts(kind: str) -> list[tuple[pathlib.Path, list[str]]]:
    lines = pathlib.Path("/proc/self/mounts").read_text().splitlines()
    words = [line.split() for line in lines]
    return [(pathlib.Path(w[1]), w[3].split(",")) for w in words if w[2] == kind]


@functools.cache
def version_2() -> pathlib.Path | None:
    found = _mounts("cgroup2")
    return found[0][0] if found and os.access(found[0][0], os.W_OK) else None


@functools.cache
def version_1(controller: str) -> pathlib.Path | None:
    for place, options in _mounts("cgroup"):
        if controller in options and os.access(place, os.W_OK):
            return place
    return None


def version_2_with(controller: str) -> pathlib.Path | None:
    root = version_2()
    if root is None or controller not in (root / "cgroup.controllers").read_text().split():
        return None
    return root


def _path_of(pid: int, root: pathlib.Path) -> pathlib.Path:
    """Where the process is now, in the hierarchy mounted at `root`."""
    for line in pathlib.Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if (root == version_2()) if controllers == "" else root == version_1(controllers):
            return root / path.lstrip("/")
    return root


@contextlib.contextmanager
def group_of(pid: int, root: pathlib.Path) -> Iterator[pathlib.Path]:
    """A group below `root` with this process in it, and back."""
    before = _path_of(pid, root)
    group = root / f"shoal-fault-{os.getpid()}-{pid}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(pid))
        yield group
    finally:
        with contextlib.suppress(ProcessLookupError):
            (before / "cgroup.procs").write_text(str(pid))
        members = group / "cgroup.procs"
        wait_until(lambda: not members.read_text(), 5, f"{members} is empty")
        group.rmdir()


def can_throttle() -> bool:
    return version_2_with("cpu") is not None or version_1("cpu") is not None


@contextlib.contextmanager
def throttled(pid: int, quota_us: int) -> Iterator[None]:
    """At most `quota_us` of processor time in each 100 ms."""
    root = version_2_with("cpu")
    if root is not None:
        (root / "cgroup.subtree_control").write_text("+cpu")
        with group_of(pid, root) as group:
            (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
            yield
        return
    old = version_1("cpu")
    assert old is not None  # can_throttle() has said so
    with group_of(pid, old) as group:
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        yield


def can_freeze() -> bool:
    return version_2() is not None or version_1("freezer") is not None


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    new = version_2()
    root = new or version_1("freezer")
    assert root is not None  # can_freeze() has said so
    name, on, off = (
        ("cgroup.freeze", "1", "0") if new is not None else ("freezer.state", "FROZEN", "THAWED")
    )
    with group_of(pid, root) as group:
        (group / name).write_text(on)
        try:
            yield
        finally:
            (group / name).write_text(off)

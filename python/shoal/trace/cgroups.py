"""What holds a process back by its cgroups: CPU quotas and freezers, of version 1 and 2."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Cgroup:
    """One cgroup that can hold a process up, at one moment."""

    path: str
    controller: str = ""  # of version 1; "": version 2
    frozen: bool = False
    throttled_us: int = 0  # in all
    throttled_periods: int = 0
    quota_us: int = -1  # of CPU time in a period; -1: none
    period_us: int = 0


def read_text(path: pathlib.Path) -> str:
    """ "" where there is nothing to be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


@functools.cache
def _mounts() -> dict[str, pathlib.Path]:
    """Where each hierarchy is mounted: "" is version 2, else a controller of version 1."""
    found: dict[str, pathlib.Path] = {}
    for line in read_text(pathlib.Path("/proc/self/mountinfo")).splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        place = pathlib.Path(before.split()[4])
        if kind == "cgroup2":
            found.setdefault("", place)
        elif kind == "cgroup":
            for option in options.split(","):
                found.setdefault(option, place)
    return found


def _numbers(path: pathlib.Path) -> dict[str, int]:
    pairs = (line.split() for line in read_text(path).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _integer(path: pathlib.Path, default: int) -> int:
    text = read_text(path).strip()
    return int(text) if text.lstrip("-").isdigit() else default


def _unified(folder: pathlib.Path, name: str) -> Cgroup:
    stat = _numbers(folder / "cpu.stat")
    quota, _, period = read_text(folder / "cpu.max").strip().partition(" ")
    return Cgroup(
        path=name,
        frozen=_numbers(folder / "cgroup.events").get("frozen", 0) == 1,
        throttled_us=stat.get("throttled_usec", 0),
        throttled_periods=stat.get("nr_throttled", 0),
        quota_us=int(quota) if quota.isdigit() else -1,
        period_us=int(period) if period.isdigit() else 0,
    )


def _cpu(folder: pathlib.Path, name: str) -> Cgroup:
    stat = _numbers(folder / "cpu.stat")
    return Cgroup(
        path=name,
        controller="cpu",
        throttled_us=stat.get("throttled_time", 0) // 1000,
        throttled_periods=stat.get("nr_throttled", 0),
        quota_us=_integer(folder / "cpu.cfs_quota_us", -1),
        period_us=_integer(folder / "cpu.cfs_period_us", 0),
    )


def _freezer(folder: pathlib.Path, name: str) -> Cgroup:
    frozen = read_text(folder / "freezer.state").strip() == "FROZEN"
    return Cgroup(path=name, controller="freezer", frozen=frozen)


_READERS = {"": _unified, "cpu": _cpu, "freezer": _freezer}


def folders(pid: int, controllers: Collection[str]) -> Iterator[tuple[str, pathlib.Path, str]]:
    """(controller, folder, path) of its cgroups in these hierarchies, its own first and upwards.
    The root has no limits."""
    for line in read_text(pathlib.Path(f"/proc/{pid}/cgroup")).splitlines():
        _, names, path = line.split(":", 2)
        for controller in names.split(","):
            mount = _mounts().get(controller)
            if controller in controllers and mount is not None:
                for folder in _upwards(path):
                    yield controller, mount / folder, "/" + folder


def read_cgroups(pid: int) -> tuple[Cgroup, ...]:
    """From its own cgroups upwards, those that hold it or could."""
    found = []
    for controller, folder, path in folders(pid, _READERS):
        group = _READERS[controller](folder, path)
        if group.frozen or group.quota_us >= 0:
            found.append(group)
    return tuple(found)


def _upwards(path: str) -> list[str]:
    """ "/a/b": ["a/b", "a"]."""
    parts = path.strip("/").split("/")
    return ["/".join(parts[:n]) for n in range(len(parts), 0, -1) if parts[0]]

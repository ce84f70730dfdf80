"""Did the kernel kill a process of ours for memory? Asked without reading the kernel's log."""

from __future__ import annotations

import re
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def _files() -> list[Path]:
    """Where this process's cgroup counts its out-of-memory kills: version 2, then version 1."""
    files: list[Path] = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return files
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            files += _upwards(_CGROUPS, path, "memory.events")
        elif "memory" in controllers.split(","):
            files += _upwards(_CGROUPS / "memory", path, "memory.oom_control")
    return files


def _upwards(root: Path, path: str, name: str) -> list[Path]:
    """The cgroup's own file, else the nearest parent's that is visible (inside a container)."""
    directory = root / path.lstrip("/")
    for place in [directory, *directory.parents]:
        if (place / name).exists():
            return [place / name]
        if place == root:
            break
    return []


def _count(text: str) -> int:
    found = re.search(r"^oom_kill (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else 0


class OomWatch:
    """Compares the counters with what they were at its making. One thread."""

    def __init__(self, files: list[Path] | None = None) -> None:
        self._files = _files() if files is None else files
        self._before = self._total()

    def _total(self) -> int:
        total = 0
        for file in self._files:
            try:
                total += _count(file.read_text())
            except OSError:
                continue  # a cgroup may go away
        return total

    def killed(self) -> bool:
        """True if there was a kill since the last call."""
        now = self._total()
        grown = now > self._before
        self._before = now
        return grown

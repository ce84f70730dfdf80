"""The machine and the moment: what a reader needs to know of a measurement."""

from __future__ import annotations

import datetime
import os
import platform
import re
from pathlib import Path

import shoal


def conditions() -> dict[str, str]:
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "shoal": shoal.__version__,
        "processor": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "caches": _caches(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "C library": " ".join(platform.libc_ver()),
        "huge pages": _chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def _field(path: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.*)$", _text(path), re.MULTILINE)
    return found[1] if found else ""


def _caches() -> str:
    """ "L1 48K, L2 2048K, L3 491520K": those that hold data, of the first core."""
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        if _text(index / "type").strip() != "Instruction":
            caches[_text(index / "level").strip()] = _text(index / "size").strip()
    return ", ".join(f"L{level} {size}" for level, size in caches.items()) or "unknown"


def _chosen(path: str) -> str:
    """The word in brackets: how the kernel shows a choice."""
    found = re.search(r"\[(\w+)\]", _text(path))
    return found[1] if found else "unknown"


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""

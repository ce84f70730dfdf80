"""Where the UCX wheel lies, without importing it."""

from __future__ import annotations

import importlib.util
import pathlib

RDMA_DEVICES = pathlib.Path("/sys/class/infiniband")


def ucx_directory(devices: pathlib.Path = RDMA_DEVICES) -> str:
    """Where to look for libucp first: the wheel's directory, or "" if it is not installed.

    Also "" on a machine with RDMA devices: the wheel's UCX has no verbs, the system's has. The
    loader prefers that one there, and finds the wheel that is installed beside shoal without help.
    """
    if devices.is_dir() and any(devices.iterdir()):
        return ""
    try:
        spec = importlib.util.find_spec("libucx")
    except (ImportError, ValueError):
        return ""
    if spec is None or not spec.submodule_search_locations:
        return ""
    for location in spec.submodule_search_locations:
        directory = pathlib.Path(location) / "lib"
        if (directory / "libucp.so.0").exists():
            return str(directory)
    return ""

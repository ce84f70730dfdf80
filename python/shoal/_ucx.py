"""Where the UCX wheel lies, without importing it."""

from __future__ import annotations

import importlib.util
import pathlib


def ucx_directory() -> str:
    """The directory of the wheel's libucp.so.0, or "" if the wheel is not installed."""
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

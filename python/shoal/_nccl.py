"""What NCCL's users get: a network plug-in for NCCL, and NCCL's interface answered by shoal
(docs/nccl.md). Where the libraries lie, and how a process is told."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import shlex

NAME = "libnccl-net-shoal.so"
_PACKAGE = pathlib.Path(__file__).resolve().parent


def plugin() -> pathlib.Path | None:
    """The plug-in of this installation: beside the extension module."""
    found = _PACKAGE / NAME
    return found if found.exists() else None


def plugin_settings() -> list[str]:
    """Lines for a POSIX shell; none: there is no plug-in here.

    NCCL makes `libnccl-net-shoal.so` of `shoal` and asks the loader for it.
    """
    found = plugin()
    if found is None:
        return []
    directory = shlex.quote(str(found.parent))
    return [
        "export NCCL_NET_PLUGIN=shoal",
        f"export LD_LIBRARY_PATH={directory}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}",
    ]


def drop_in() -> pathlib.Path:
    """This package's libnccl.so.2; whether it is there depends on how shoal was built."""
    return _PACKAGE / "nccl" / "libnccl.so.2"


def preloads() -> dict[str, str]:
    """Variables of a process that shall find it: programs and libraries (PyTorch, for one) look for
    NCCL by that name, and what is preloaded comes before any other. SHOAL_REAL_NCCL names the one
    to which it passes on what it does not do."""
    others = os.environ.get("LD_PRELOAD")
    variables = {"LD_PRELOAD": f"{drop_in()}:{others}" if others else str(drop_in())}
    real = _real_library()
    if "SHOAL_REAL_NCCL" not in os.environ and real is not None:
        variables["SHOAL_REAL_NCCL"] = str(real)
    return variables


def _real_library() -> pathlib.Path | None:
    """NCCL itself, as its wheels install it."""
    try:
        found = importlib.util.find_spec("nvidia.nccl")
    except ModuleNotFoundError:
        return None
    for folder in found.submodule_search_locations or () if found else ():
        path = pathlib.Path(folder) / "lib" / "libnccl.so.2"
        if path.exists():
            return path
    return None

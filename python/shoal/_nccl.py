"""Where NCCL's network plug-in lies, and how NCCL is told."""

from __future__ import annotations

import pathlib
import shlex

NAME = "libnccl-net-shoal.so"


def plugin() -> pathlib.Path | None:
    """The plug-in of this installation: beside the extension module."""
    found = pathlib.Path(__file__).resolve().parent / NAME
    return found if found.exists() else None


def environment() -> list[str]:
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

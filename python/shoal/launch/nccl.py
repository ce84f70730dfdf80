"""``shoal run --nccl``: what makes NCCL's users run on shoal.

Programs and libraries (PyTorch, for one) find NCCL by its name, libnccl.so.2. The one in this
package answers to that name; preloaded, it comes before any other. What it does not do it passes on
to NCCL itself, where SHOAL_REAL_NCCL names it.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path


def library() -> Path:
    """The package's libnccl.so.2; whether it is there depends on how shoal was built."""
    return Path(__file__).parents[1] / "nccl" / "libnccl.so.2"


def real_library() -> Path | None:
    """NCCL itself, as its wheels install it."""
    try:
        found = importlib.util.find_spec("nvidia.nccl")
    except ModuleNotFoundError:
        return None
    for folder in found.submodule_search_locations or () if found else ():
        path = Path(folder) / "lib" / "libnccl.so.2"
        if path.exists():
            return path
    return None


def environment() -> dict[str, str]:
    """For every rank."""
    preloaded = os.environ.get("LD_PRELOAD")
    variables = {"LD_PRELOAD": f"{library()}:{preloaded}" if preloaded else str(library())}
    real = real_library()
    if "SHOAL_REAL_NCCL" not in os.environ and real is not None:
        variables["SHOAL_REAL_NCCL"] = str(real)
    return variables

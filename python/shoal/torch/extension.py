"""Finds and loads the extension that was built for the torch of this process."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import pathlib
import sys
import types
from typing import Any

import torch

import shoal  # noqa: F401  (libshoal is in the process before the extension that needs it)

BUILD = f"{pathlib.Path(sys.executable).name} -m shoal.torch.build"
NAME = "_C"


def version() -> str:
    """What an extension is built for, e.g. "torch 2.13.0+cpu, cpython-311-x86_64-linux-gnu"."""
    return f"torch {torch.__version__}, {_abi()}"


def _abi() -> str:
    return importlib.machinery.EXTENSION_SUFFIXES[0].strip(".").removesuffix(".so")


def package_directory() -> pathlib.Path:
    return pathlib.Path(__file__).parent


def cache_directory() -> pathlib.Path:
    """Of the user, for where the package cannot be written; one for each version."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "shoal" / f"torch-{torch.__version__}-{_abi()}-{shoal.__version__}"


def built_for(directory: pathlib.Path) -> str | None:
    """The version an extension there is built for; None if there is none."""
    try:
        text = (directory / "built_for.txt").read_text()
    except OSError:
        return None
    return text.strip() if (directory / f"{NAME}.so").exists() else None


def load() -> types.ModuleType:
    """The extension. Raises ImportError saying what it was built for and how to build it again."""
    name = f"shoal.torch.{NAME}"
    if name in sys.modules:
        return sys.modules[name]
    found = [(directory, built_for(directory)) for directory in _places()]
    for directory, what in found:
        if what == version():
            return _load(name, directory / f"{NAME}.so")
    others = ", ".join(what for _, what in found if what is not None)
    raise ImportError(
        f"shoal.torch: this is {version()}; "
        + (f"the extension was built for {others}" if others else "no extension has been built")
        + f". Build it (a minute): {BUILD}"
    )


def _places() -> list[pathlib.Path]:
    return [package_directory(), cache_directory()]


def _load(name: str, path: pathlib.Path) -> types.ModuleType:
    spec: Any = importlib.util.spec_from_file_location(name, path)
    module: types.ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module

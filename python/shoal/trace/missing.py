"""Packages of the extra `trace`, which whoever only runs jobs does not need."""

from __future__ import annotations

import importlib
from typing import Any


class NotInstalled(Exception):
    """Says what to install."""


def need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        what = module.partition(".")[0].replace("_", "-")
        raise NotInstalled(
            f"this needs the package {what}: pip install 'shoal[trace]' ({error})"
        ) from error

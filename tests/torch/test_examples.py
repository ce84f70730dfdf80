"""Each of examples/torch runs on four ranks, as its first line says."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from conftest import EXAMPLES

pytest.importorskip("sklearn", reason="the examples train on its digits")

Torchrun = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_example(torchrun: Torchrun, path: object) -> None:
    done = torchrun(path, ranks=4, limit_s=100)
    assert "over shoal" in done.stdout and "accuracy 0.9" in done.stdout, done.stdout
    if "ddp" in str(path) and "fsdp" not in str(path):
        assert ", 0 bytes of gradients staged" in done.stdout, done.stdout

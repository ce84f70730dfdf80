"""The extension belongs to one version of torch, and says so."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys
import textwrap

import pytest

ASK = """
import sys
sys.path.insert(0, {folder!r})
import torch
torch.__version__ = {version!r}
from shoal.torch import extension
try:
    extension.load()
except ImportError as error:
    print(error)
else:
    print("loaded")
"""


@pytest.fixture
def package(tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the installed package whose extension can be taken away."""
    import shoal

    copy = tmp_path / "site"
    shutil.copytree(pathlib.Path(shoal.__file__).parent, copy / "shoal")
    return copy


def ask(package: pathlib.Path, version: str) -> str:
    program = textwrap.dedent(ASK).format(folder=str(package), version=version)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(package), "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_another_version_of_torch_is_refused_with_the_command_that_helps(
    package: pathlib.Path,
) -> None:
    import torch

    assert ask(package, torch.__version__) == "loaded\n"
    said = ask(package, "2.99.0")
    assert f"built for torch {torch.__version__}" in said and "this is torch 2.99.0" in said, said
    assert "-m shoal.torch.build" in said, said
    (package / "shoal" / "torch" / "_C.so").unlink()
    assert "no extension has been built" in ask(package, torch.__version__)

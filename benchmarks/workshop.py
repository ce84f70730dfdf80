"""Where the suite builds: one virtual environment for each peer, and the compiled drivers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

DRIVERS = Path(__file__).parent / "drivers"
_FLAGS = ("-O3", "-march=native", "-fPIC")
_INSTALL_SECONDS = 900
_COMPILE_SECONDS = 120
_KEPT_ERROR = 600  # characters of a tool's last words


class Unavailable(Exception):
    """A library cannot take part; the text says why."""


def default_directory() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "shoal" / "bench"


class Workshop:
    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        self.directory = directory.absolute()
        self._say = say

    def environment(self, name: str, packages: Sequence[str]) -> Path:
        """A virtual environment with these packages; made now if there is none."""
        root = self.directory / "peers" / name
        done = root / "installed.json"
        if done.exists() and json.loads(done.read_text()) == list(packages):
            return root
        self._say(f"installing {' '.join(packages)} into {root}")
        shutil.rmtree(root, ignore_errors=True)
        root.parent.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", str(root)], _INSTALL_SECONDS)
        _run([str(root / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check",
              *packages], _INSTALL_SECONDS)  # fmt: skip
        done.write_text(json.dumps(list(packages)))
        return root

    def compile(
        self, name: str, source: str, flags: Sequence[str] = (), headers: Sequence[Path] = ()
    ) -> Path:
        """The driver `source` with the harness, for this processor; made again if they, or a
        library's headers, change."""
        cc, cxx = _c_compiler(), _compiler("CXX", "g++", "c++", "clang++")
        harness = self._made("harness.o", [cc, "-c"], ["harness.c", "harness.h"])
        compiler = [cxx, "-std=c++20"] if source.endswith(".cc") else [cc]
        return self._made(name, compiler, [source, "harness.h", *headers], [str(harness), *flags])

    def harness(self) -> Path:
        """The harness alone, to be loaded by a driver in Python."""
        return self._made("harness.so", [_c_compiler(), "-shared"], ["harness.c", "harness.h"])

    def _made(
        self,
        name: str,
        compiler: list[str],
        sources: Sequence[str | Path],
        others: Sequence[str] = (),
    ) -> Path:
        """What the compiler makes of the first source; the rest is looked at for changes."""
        command = [*compiler, *_FLAGS, str(DRIVERS / sources[0]), *others]
        digest = hashlib.sha256("\0".join(command).encode())
        for source in sources:
            digest.update((DRIVERS / source).read_bytes())  # an absolute path stays as it is
        output = self.directory / "drivers" / f"{name}-{digest.hexdigest()[:16]}"
        if not output.exists():
            output.parent.mkdir(parents=True, exist_ok=True)
            unfinished = output.with_suffix(".new")
            _run([*command, "-o", str(unfinished)], _COMPILE_SECONDS)
            unfinished.rename(output)
        return output


def _c_compiler() -> str:
    return _compiler("CC", "gcc", "cc", "clang")


def _compiler(variable: str, *names: str) -> str:
    for name in (os.environ.get(variable, ""), *names):
        if name and (found := shutil.which(name)):
            return found
    raise Unavailable(f"no compiler found: install {names[0]}, or name one by {variable}")


def _run(command: list[str], seconds: float) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{' '.join(command[:4])} ... took more than {seconds:g} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-_KEPT_ERROR:]
        raise Unavailable(f"{' '.join(command[:4])} ... failed: {said}")

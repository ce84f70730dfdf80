"""python -m shoal.torch.build: builds the extension for the torch of this interpreter.

Needs a C++20 compiler (g++ >= 12; CXX names another), the headers of Python, and cmake >= 3.22
(pip install cmake). Takes about a minute. The result goes into the package, or, where that cannot
be written, into the user's cache (~/.cache/shoal).
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from shoal.torch import extension


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m shoal.torch.build",
        description="Builds shoal's torch backend for the torch of this interpreter.",
    )
    parser.add_argument("--force", action="store_true", help="also if there is one already")
    options = parser.parse_args(arguments)
    package = extension.package_directory()
    for directory in (package, extension.cache_directory()):
        if extension.built_for(directory) == extension.version() and not options.force:
            print(f"shoal.torch: built already for {extension.version()}: {directory}")
            return 0
    target = package if os.access(package, os.W_OK) else extension.cache_directory()
    with tempfile.TemporaryDirectory(prefix="shoal-torch-") as scratch:
        build(package, pathlib.Path(scratch), target)
    print(f"shoal.torch: built for {extension.version()}: {target}")
    return 0


def build(package: pathlib.Path, scratch: pathlib.Path, target: pathlib.Path) -> None:
    """Raises SystemExit with what is missing, or the compiler's own words."""
    cmake = _tool("cmake")
    if cmake is None:
        raise SystemExit("shoal.torch.build: cmake >= 3.22 is missing: pip install cmake")
    ninja = _tool("ninja")
    configure = [
        cmake, "-S", str(package / "source"), "-B", str(scratch),
        f"-DPython_EXECUTABLE={sys.executable}", f"-DSHOAL_PACKAGE={package.parent}",
    ]  # fmt: skip
    if ninja is not None:
        configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    jobs = str(len(os.sched_getaffinity(0)))
    for step in (configure, [cmake, "--build", str(scratch), "--parallel", jobs]):
        done = subprocess.run(step, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            raise SystemExit(
                f"{done.stdout}\nshoal.torch.build: {' '.join(step[:2])} failed, see above. "
                "It needs g++ >= 12 (CXX=... names another compiler) and Python's headers."
            )
    target.mkdir(parents=True, exist_ok=True)
    # Not over one that runs: a new file takes its place.
    for name in (f"{extension.NAME}.so", "built_for.txt"):
        shutil.copy2(scratch / name, target / f".{name}.new")
        os.replace(target / f".{name}.new", target / name)


def _tool(name: str) -> str | None:
    """A program on PATH, else beside the interpreter (a virtual environment not activated)."""
    return shutil.which(name) or shutil.which(name, path=str(pathlib.Path(sys.executable).parent))


if __name__ == "__main__":
    raise SystemExit(main())

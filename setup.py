"""Builds the Python package. CMake is the only description of the build; this file drives it.

SHOAL_BUILD_DIR   CMake's build directory; kept, so that the next build is short.
SHOAL_CMAKE_ARGS  more arguments for CMake, separated as in a shell, e.g. "-DSHOAL_UCX=OFF".
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def version() -> str:
    """The version that CMakeLists.txt states."""
    text = (ROOT / "CMakeLists.txt").read_text()
    found = re.search(r"project\(shoal VERSION ([\d.]+)", text)
    if not found:
        raise SystemExit("setup.py: CMakeLists.txt has no line `project(shoal VERSION ...`")
    return found[1]


def tool(name: str) -> str | None:
    """A program on PATH, else beside the interpreter (a virtual environment not activated)."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


class CMakeBuild(build_ext):
    """Configures, builds the target `shoal_package`, installs its files into the package."""

    def run(self) -> None:
        build_dir = Path(
            os.environ.get("SHOAL_BUILD_DIR") or Path(self.build_temp, "cmake")
        ).resolve()
        package = Path(self.get_ext_fullpath("shoal._core")).resolve().parent
        cmake = tool("cmake")
        if cmake is None:
            raise SystemExit("setup.py: cmake >= 3.22 is missing: pip install cmake")
        jobs = str(self.parallel or len(os.sched_getaffinity(0)))
        subprocess.run([cmake, *self.configure_arguments(build_dir)], check=True)
        subprocess.run(
            [cmake, "--build", build_dir, "--target", "shoal_package", "--parallel", jobs],
            check=True,
        )
        subprocess.run(
            [cmake, "--install", build_dir, "--component", "python", "--prefix", package],
            check=True,
        )

    def configure_arguments(self, build_dir: Path) -> list[str]:
        arguments = [
            "-S", str(ROOT), "-B", str(build_dir),
            "-DSHOAL_PYTHON=ON",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DPython3_EXECUTABLE={sys.executable}",
        ]  # fmt: skip
        # pip builds in an environment of its own, whose paths end with it: say them every time.
        pybind11 = subprocess.run(
            [sys.executable, "-m", "pybind11", "--cmakedir"],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        arguments.append(f"-Dpybind11_DIR={pybind11.stdout.strip()}")
        has_torch = importlib.util.find_spec("torch") is not None
        arguments.append(f"-DSHOAL_TORCH={'ON' if has_torch else 'OFF'}")
        ucx = importlib.util.find_spec("libucx")
        if ucx is not None and ucx.submodule_search_locations:
            arguments.append(f"-DUCX_WHEEL_ROOT={ucx.submodule_search_locations[0]}")
        ninja = tool("ninja")
        # A build directory made before keeps its generator and its choice of tests.
        fresh = not (build_dir / "CMakeCache.txt").exists()
        if fresh:
            arguments += ["-DCMAKE_BUILD_TYPE=Release", "-DSHOAL_TESTS=OFF"]
            arguments += ["-G", "Ninja" if ninja else "Unix Makefiles"]
        if ninja and (fresh or "CMAKE_GENERATOR:INTERNAL=Ninja" in cache(build_dir)):
            arguments.append(f"-DCMAKE_MAKE_PROGRAM={ninja}")
        if ccache := shutil.which("ccache"):
            arguments.append(f"-DCMAKE_CXX_COMPILER_LAUNCHER={ccache}")
        return arguments + shlex.split(os.environ.get("SHOAL_CMAKE_ARGS", ""))


def cache(build_dir: Path) -> str:
    return (build_dir / "CMakeCache.txt").read_text()


class CleanBuildPy(build_py):
    """Starts from nothing: a module deleted in the source must not come back from an old build."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


setup(
    version=version(),
    ext_modules=[Extension("shoal._core", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "build_py": CleanBuildPy},
    # Below build/, apart from CMake's own directories there.
    options={"build": {"build_base": "build/setuptools"}},
)

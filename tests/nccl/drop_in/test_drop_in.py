"""Programs of NCCL's users run on shoal: `shoal run --nccl`."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass

import pytest

from tests.python.conftest import CUDA_DRIVER, CUDA_KERNELS, run_to_an_end

HERE = pathlib.Path(__file__).parent
LIMIT_S = 60


@dataclass
class Nccl:
    """NCCL's header, and what is made with it."""

    header: pathlib.Path
    program: pathlib.Path
    real: pathlib.Path  # stands for NCCL itself

    def run(
        self, folder: pathlib.Path, mode: str, ranks: int, expect: int = 0, **variables: str
    ) -> str:
        command = [
            sys.executable, "-m", "shoal.cli", "run", "-n", str(ranks), "--nccl",
            "--timeout", str(LIMIT_S), str(self.program), mode, str(folder / "id"),
        ]  # fmt: skip
        environment = {**os.environ, "SHOAL_REAL_NCCL": "", **variables}
        code, out, err = run_to_an_end(command, environment, LIMIT_S + 30, folder)
        assert code == expect, out + err
        return out


@pytest.fixture(scope="session")
def nccl(tmp_path_factory: pytest.TempPathFactory) -> Nccl:
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc here: nccl.h includes CUDA's headers")
    folder = tmp_path_factory.mktemp("nccl")
    include = folder / "nvidia/nccl/include"
    fetched = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder,
         "nvidia-nccl-cu13>=2.32,<2.33"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        pytest.skip(f"no nccl.h to be had: {fetched.stderr.strip()[-300:]}")
    with zipfile.ZipFile(wheels[0]) as wheel:  # 300 MB, of which one file is wanted
        wheel.extract("nvidia/nccl/include/nccl.h", folder)
    wheels[0].unlink()

    def build(source: str, output: str, *options: str) -> pathlib.Path:
        # The linker looks at shoal's library, so that a name it lacks is an error here.
        object_file = folder / f"{output}.o"
        subprocess.run(
            ["nvcc", "-x", "c++", "-std=c++17", "-Xcompiler", "-fPIC,-Wno-deprecated-declarations",
             f"-I{include}", "-c", HERE / source, "-o", object_file],
            check=True, timeout=120,
        )  # fmt: skip
        subprocess.run(
            ["g++", object_file, "-o", folder / output, *options], check=True, timeout=60
        )
        return folder / output

    program = build(
        "program.cc",
        "program",
        str(library()),
        f"-Wl,-rpath-link,{library().parents[1]}",
        "-pthread",
    )
    real = build("real.cc", "libreal.so", "-shared")
    return Nccl(include / "nccl.h", program, real)


def library() -> pathlib.Path:
    from shoal import _nccl

    return _nccl.drop_in()


@pytest.mark.parametrize("ranks", [2, 4])
def test_every_function_means_what_nccl_says(
    nccl: Nccl, tmp_path: pathlib.Path, ranks: int
) -> None:
    assert nccl.run(tmp_path, "all", ranks).count("right") == ranks


def test_ranks_of_one_thread(nccl: Nccl, tmp_path: pathlib.Path) -> None:
    assert nccl.run(tmp_path, "thread", 1) == "right\n"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """For CUDA's driver."""
    if not CUDA_DRIVER.exists():
        pytest.skip(f"no {CUDA_DRIVER}: it is built with the C++ tests, where cuda.h is")
    monkeypatch.setenv("SHOAL_CUDA_DRIVER", str(CUDA_DRIVER))
    monkeypatch.setenv("FAKE_CUDA_KERNELS", str(CUDA_KERNELS))


@pytest.mark.usefixtures("stand_in")
def test_cuda_memory_on_a_stream(nccl: Nccl, tmp_path: pathlib.Path) -> None:
    assert nccl.run(tmp_path, "device", 3).count("right") == 3


def test_a_killed_rank_is_named(nccl: Nccl, tmp_path: pathlib.Path) -> None:
    assert nccl.run(tmp_path, "killed", 3, expect=137).count("told") == 2


@pytest.mark.usefixtures("stand_in")
def test_what_shoal_does_not_do_goes_to_nccl(nccl: Nccl, tmp_path: pathlib.Path) -> None:
    out = nccl.run(tmp_path, "other", 2, SHOAL_REAL_NCCL=str(nccl.real))
    assert out.count("by NCCL") == 2 and out.count("right") == 2


@pytest.mark.usefixtures("stand_in")
def test_or_fails_with_its_name(nccl: Nccl, tmp_path: pathlib.Path) -> None:
    assert nccl.run(tmp_path, "other", 2).count("refused") == 2


def test_every_name_of_the_header_is_exported(nccl: Nccl) -> None:
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", nccl.header.read_text(), flags=re.DOTALL)
    declared = set(re.findall(r"\b(p?nccl[A-Z]\w+)\s*\(", text)) - {"ncclUniqueId"}
    exported = exported_names()
    assert len(declared) > 100
    assert declared - exported == set()
    assert all(re.match(r"p?nccl[A-Z]", name) for name in exported)


# What libtorch_cuda.so of torch 2.11.0+cu130 asks of libnccl.so.2:
# nm -D --undefined-only torch/lib/libtorch_cuda.so | grep nccl
TORCH = """
AllGather AllReduce AlltoAll Bcast Broadcast CommAbort CommCount CommDeregister CommDestroy
CommFinalize CommGetAsyncError CommInitAll CommInitRank CommInitRankConfig CommInitRankScalable
CommRegister CommShrink CommSplit CommUserRank CommWindowDeregister CommWindowRegister
DevCommCreate DevCommDestroy GetErrorString GetLastError GetUniqueId GetVersion GroupEnd
GroupSimulateEnd GroupStart MemAlloc MemFree Recv RedOpCreatePreMulSum RedOpDestroy Reduce
ReduceScatter Send
"""


def test_every_name_that_torch_asks_for_is_exported() -> None:
    if not library().exists():
        pytest.skip(f"no {library()}")
    assert {f"nccl{name}" for name in TORCH.split()} - exported_names() == set()


def test_it_comes_before_the_one_that_a_library_would_find_by_itself(
    tmp_path: pathlib.Path,
) -> None:
    """PyTorch's libraries find NCCL by their own RPATH."""
    if shutil.which("gcc") is None or not library().exists():
        pytest.skip(f"no gcc, or no {library()}")

    def build(output: str, source: str, *options: str) -> pathlib.Path:
        (tmp_path / f"{output}.c").write_text(source)
        command = ["gcc", "-shared", "-fPIC", f"{output}.c", "-o", output, *options]
        subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
        return tmp_path / output

    build(
        "libnccl.so.2",
        "int ncclGetVersion(int* version) { *version = 1; return 0; }",
        "-Wl,-soname,libnccl.so.2",
    )
    user = build(
        "libuser.so",
        "int ncclGetVersion(int*); int answered(void) { int v = 0; ncclGetVersion(&v); return v; }",
        "./libnccl.so.2", "-Wl,--disable-new-dtags", "-Wl,-rpath,$ORIGIN",
    )  # fmt: skip
    ask = [sys.executable, "-c", f"import ctypes; print(ctypes.CDLL('{user}').answered())"]

    def answer(*before: str) -> str:
        done = subprocess.run(
            [*before, *ask], capture_output=True, text=True, timeout=LIMIT_S, check=True
        )
        return done.stdout.strip()

    assert answer() == "1"
    assert answer(sys.executable, "-m", "shoal.cli", "run", "-n", "1", "--nccl", "--") == "23203"


def exported_names() -> set[str]:
    shown = subprocess.run(
        ["nm", "-D", "--defined-only", library()],
        capture_output=True, text=True, check=True, timeout=30,
    ).stdout  # fmt: skip
    return {line.split()[-1] for line in shown.splitlines()}

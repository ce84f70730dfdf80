"""Jobs for tests: `job(source, ranks=N)` runs a Python program on N ranks under `shoal run`.

A job has a time limit. When it passes, every rank prints the stacks of all its threads
(faulthandler) before the launcher ends it, and the test fails with all of that: a hang is a
failure with stacks.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

PREAMBLE = """\
import faulthandler, os
faulthandler.dump_traceback_later(float(os.environ["SHOAL_TEST_LIMIT_S"]), exit=True)
import numpy as np
import shoal
"""


# What stands in for CUDA's driver and runs its kernels (tests/fake_cuda): built with the C++ tests,
# where cuda.h is, the kernels where nvcc is.
BUILD = pathlib.Path(
    os.environ.get("SHOAL_TEST_BUILD") or pathlib.Path(__file__).parents[2] / "build" / "release"
)
CUDA_DRIVER = BUILD / "tests/fake_cuda/libcuda_fake.so"
CUDA_KERNELS = BUILD / "tests/cuda/libshoal_cuda_kernels_host.so"

# For programs: the text of the error that a call has to raise.
CAUGHT = """
    def caught(call, kind):
        try:
            call()
        except kind as error:
            return str(error)
        raise AssertionError(f"no {kind.__name__}")
"""


@dataclass
class Result:
    returncode: int
    out: str
    err: str
    report: dict[str, Any]

    def lines(self, rank: int) -> list[str]:
        """What one rank printed on stdout."""
        prefix = f"[{rank}] "
        return [line[len(prefix) :] for line in self.out.splitlines() if line.startswith(prefix)]


Runner = Callable[..., Result]


def run_to_an_end(
    command: list[str], environment: dict[str, str], limit_s: float, folder: pathlib.Path
) -> tuple[int, str, str]:
    """Exit status, stdout and stderr; fails if it takes longer, also where it cannot be killed.

    The outputs are files: a pipe's end would have to be waited for, and comes only when the last
    process that has it is gone, be it one that hangs in the kernel.
    """
    out, err = folder / "stdout", folder / "stderr"
    with out.open("w") as stdout, err.open("w") as stderr:
        process = subprocess.Popen(
            command, env=environment, stdout=stdout, stderr=stderr, start_new_session=True
        )
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        everyone = subprocess.run(
            ["ps", "-N", "--ppid", "2", "-Lo", "pid,ppid,stat,wchan:24,args"],
            capture_output=True, text=True, timeout=20, check=False,
        ).stdout  # fmt: skip
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(
            f"no end within {limit_s} s: {' '.join(command)}\n--- stdout\n{out.read_text()}\n"
            f"--- stderr\n{err.read_text()}\n--- processes\n{everyone}"
        )
    return process.returncode, out.read_text(), err.read_text()


@pytest.fixture
def job(tmp_path: pathlib.Path) -> Runner:
    """job(source, ranks=2, limit_s=60, expect=0, launcher=(), options=(), arguments=())"""

    def run(
        source: str | pathlib.Path,
        ranks: int = 2,
        limit_s: float = 60,
        expect: int | None = 0,
        launcher: tuple[str, ...] = (),
        options: tuple[str, ...] | None = None,
        arguments: tuple[str, ...] = (),
    ) -> Result:
        if isinstance(source, pathlib.Path):
            program = source
        else:
            program = tmp_path / "program.py"
            program.write_text(PREAMBLE + textwrap.dedent(source))
        report = tmp_path / "report.json"
        where = ("-n", str(ranks)) if options is None else options
        command = [
            *launcher, sys.executable, "-m", "shoal.cli", "run", *where,
            "--timeout", str(limit_s + 5), "--json-report", str(report),
            sys.executable, str(program), *arguments,
        ]  # fmt: skip
        environment = {**os.environ, "SHOAL_TEST_LIMIT_S": str(limit_s), "OMP_NUM_THREADS": "1"}
        returncode, out, err = run_to_an_end(command, environment, limit_s + 30, tmp_path)
        if expect is not None:
            assert returncode == expect, f"exit {returncode}\n--- stdout\n{out}\n--- stderr\n{err}"
        return Result(
            returncode, out, err, json.loads(report.read_text()) if report.exists() else {}
        )

    return run


@dataclass
class TwoHosts:
    """Two network namespaces joined by a veth pair: what `--hosts` sees as two machines."""

    a: str
    b: str
    address_a: str

    def options(self, ranks_each: int, network: str = "auto") -> tuple[str, ...]:
        return (
            "--hosts", f"{self.a}:{ranks_each},{self.b}:{ranks_each}",
            "--agent", "ip netns exec {host}", "--address", self.address_a,
            "--env", f"SHOAL_NETWORK={network}",
        )  # fmt: skip

    @property
    def launcher(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.a)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)


def _wait_until_up(name: str, link: str) -> None:
    """The kernel reports a link's carrier a while after `set up`; UCX passes over links without."""
    for _ in range(100):
        shown = subprocess.run(
            ["ip", "-n", name, "-br", "link", "show", link],
            capture_output=True, text=True, timeout=20, check=True,
        ).stdout  # fmt: skip
        if " UP " in shown:
            return
        time.sleep(0.05)
    pytest.skip(f"{link} has no carrier after 5 s: {shown}")


@pytest.fixture
def two_hosts() -> Iterator[TwoHosts]:
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs root and iproute2 to make network namespaces")
    tag = f"{os.getpid() % 10000}"
    hosts = TwoHosts(f"shoal-a{tag}", f"shoal-b{tag}", "10.83.0.1")
    try:
        for name in (hosts.a, hosts.b):
            _ip("netns", "add", name)
        _ip("link", "add", f"va{tag}", "netns", hosts.a, "type", "veth", "peer", "name",
            f"vb{tag}", "netns", hosts.b)  # fmt: skip
        for name, link, host in ((hosts.a, f"va{tag}", 1), (hosts.b, f"vb{tag}", 2)):
            _ip("-n", name, "addr", "add", f"10.83.0.{host}/24", "dev", link)
            _ip("-n", name, "link", "set", link, "up")
            _ip("-n", name, "link", "set", "lo", "up")
            # bbr, this kernel's default, makes throughput depend on write sizes.
            _ip("netns", "exec", name, "sysctl", "-q", "-w",
                "net.ipv4.tcp_congestion_control=reno")  # fmt: skip
        _wait_until_up(hosts.a, f"va{tag}")
        _wait_until_up(hosts.b, f"vb{tag}")
        yield hosts
    except subprocess.CalledProcessError as error:
        pytest.skip(f"cannot make network namespaces: {error.stderr}")
    finally:
        for name in (hosts.a, hosts.b):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

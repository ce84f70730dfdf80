"""A running job with `shoal trace` attached and without, in turn; pages tell its rate."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from shoal.pages import Node

SLOT_S = 2.0
SETTLE_S = 1.5  # until the tracer's programs have been loaded
START_S = 30.0
RANKS = 2
PROGRAM = """
import sys, shoal
comm = shoal.init()
x = comm.empty(int(sys.argv[1]) // 4, "float32")
while True:
    comm.all_reduce(x)
"""


@dataclass(frozen=True)
class Attached:
    bytes: int
    rounds: int
    rate: float  # operations a second without the tracer, median
    ratio: float  # with over without, median of the rounds
    cpu: float  # of a core that the tracer used, median


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes], by: int) -> Iterator[None]:
    try:
        yield
    finally:
        process.send_signal(by)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_pages(node: Node) -> None:
    end = time.monotonic() + START_S
    while len(node.read()) < RANKS or min(page.completed for page in node.read()) == 0:
        if time.monotonic() > end:
            raise SystemExit("the job did not begin")
        time.sleep(0.1)
        node.look()


def _rate(node: Node) -> float:
    before = node.read()[0]
    time.sleep(SLOT_S)
    after = node.read()[0]
    return (after.completed - before.completed) * 1e9 / (after.read_ns - before.read_ns)


def _cpu_s(pid: int) -> float:
    """Of a process and its children that run."""
    total = 0.0
    for entry in (e for e in os.listdir("/proc") if e.isdigit()):
        with contextlib.suppress(OSError):
            with open(f"/proc/{entry}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            if int(entry) == pid or int(fields[1]) == pid:
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _watched_rate(node: Node) -> tuple[float, float]:
    command = [sys.executable, "-m", "shoal.cli", "trace", "--json"]
    tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with _ended(tracer, signal.SIGINT):
        time.sleep(SETTLE_S)
        before = _cpu_s(tracer.pid)
        rate = _rate(node)
        return rate, (_cpu_s(tracer.pid) - before) / SLOT_S


def measure(size: int, rounds: int) -> Attached:
    name = f"bench-tracer-{os.getpid()}-{size}"
    command = [sys.executable, "-m", "shoal.cli", "run", "-n", str(RANKS), "--job", name]
    program = [sys.executable, "-c", PROGRAM, str(size)]
    job = subprocess.Popen([*command, *program], stderr=subprocess.DEVNULL)
    with _ended(job, signal.SIGTERM):
        node = Node(name)
        _wait_for_pages(node)
        free, ratios, cpus = [], [], []
        for _ in range(rounds):
            free.append(_rate(node))
            rate, cpu = _watched_rate(node)
            ratios.append(rate / statistics.mean((free[-1], _rate(node))))
            cpus.append(cpu)
    middle = statistics.median
    return Attached(size, rounds, middle(free), middle(ratios), middle(cpus))

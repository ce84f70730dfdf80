"""What one rank of `make bench-gpu` does: a program for `shoal run`. Rank 0 prints JSON lines.

Systems take turns, round by round, so that a machine that changes changes for all; a row is the
median of its rounds. How many calls a round has follows from the time that is left: ranks that
share a GPU get it in slices, and a peer whose kernels wait there needs milliseconds a call.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import shoal
from benchmarks.gpu import peers
from benchmarks.gpu.driver import Driver

Call = Callable[[], None]
OWN = ("shoal", "shoal, graph")
# At most so many calls are under way: fewer than a rank may be ahead of another one.
AHEAD = 32
MOST_CALLS = 200
# A call that takes longer is measured well enough by one; if fewer than so many fit the time, by
# the first alone.
FEW_S = 2e-3
LEAST_CALLS = 4


class Bench:
    """A rank's stream, and how long a number of calls on it takes."""

    def __init__(self, comm: shoal.Communicator, driver: Driver) -> None:
        self.comm, self.driver = comm, driver
        self.stream = driver.stream()
        self.captures = True

    def seconds(self, call: Call, calls: int, finish: Call) -> tuple[float, float]:
        """Of a call: until all of them are over, and until the host has them off its hands."""
        self.comm.barrier()
        hosts = 0.0
        begin = time.perf_counter()
        for done in range(0, calls, AHEAD):
            start = time.perf_counter()
            for _ in range(min(AHEAD, calls - done)):
                call()
            hosts += time.perf_counter() - start
            finish()
        return (time.perf_counter() - begin) / calls, hosts / calls

    def once(self, call: Call, finish: Call) -> None:
        call()
        finish()

    def finish(self) -> None:
        self.driver.synchronize(self.stream)

    @contextlib.contextmanager
    def bounded(self, name: str, limit_s: float = peers.HUNG_S) -> Iterator[None]:
        """Ends this process, and with it the job, if what is within hangs. Whoever started the job
        has been told whose turn it was."""

        def end() -> None:
            print(json.dumps({"hung": name, "after_s": limit_s}), flush=True)
            os._exit(70)

        self.say(doing=name)
        timer = threading.Timer(limit_s, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def slowest(self, value: float) -> float:
        """The largest of all ranks: what they decide by has to be the same."""
        values = np.array([value])
        self.comm.all_reduce(values, op="max")
        return float(values[0])

    def say(self, **words: Any) -> None:
        if self.comm.rank == 0:
            print(json.dumps(words), flush=True)


@dataclass
class System:
    """One of those that take turns, at one size."""

    name: str
    call: Call
    finish: Call
    calls: int = 1
    rounds: int = 1
    times: list[tuple[float, float]] = field(default_factory=list)


def copy_bandwidth(bench: Bench, count: int, calls: int) -> float:
    """Bytes a second, read and written, of a copy within the device that has it for itself."""
    comm = bench.comm
    rate = np.zeros(1)
    if comm.rank == 0:
        x, y = (comm.empty(count, "uint8", device="cuda") for _ in range(2))
        source, target = (a.__cuda_array_interface__["data"][0] for a in (x, y))
        for i in range(calls + 1):
            if i == 1:
                begin = time.perf_counter()
            bench.driver.copy(target, source, count, bench.stream)
            bench.finish()
        rate[0] = 2 * count * calls / (time.perf_counter() - begin)
    comm.broadcast(rate, root=0)
    return float(rate[0])


def own_systems(bench: Bench, x: Any) -> list[System]:
    comm, stream = bench.comm, bench.stream

    def call() -> None:
        comm.all_reduce(x, stream=stream)

    with bench.bounded(OWN[0]):
        bench.once(call, bench.finish)
    found = [System(OWN[0], call, bench.finish)]
    if bench.captures:
        try:
            bench.driver.begin_capture(stream)
            call()
            graph = bench.driver.end_capture(stream)
        except Exception as error:  # this driver may not take it; then none of the ranks' does
            bench.captures = False
            bench.stream = bench.driver.stream()
            bench.say(without=OWN[1], because=str(error)[:400])
            return own_systems(bench, x)
        replay = System(OWN[1], lambda: bench.driver.launch(graph, stream), bench.finish)
        with bench.bounded(OWN[1]):
            bench.once(replay.call, bench.finish)
        found.append(replay)
    return found


class Others:
    """The peers that are still there. One that fails on any rank is left out on all."""

    def __init__(self, bench: Bench, names: list[str], shared: bool, device: int) -> None:
        self._bench, self._names = bench, names
        self._peers: peers.Peers | None = None
        if not names:
            return
        try:
            with bench.bounded(names[0]):
                self._peers = peers.Peers(device, shared)
            bench.say(versions=self._peers.versions)
        except Exception as error:
            self._leave_out(list(names), error)

    def systems(self, count: int) -> list[System]:
        found = []
        for name in list(self._names):
            error: Exception | None = None
            with self._bench.bounded(name):
                try:
                    assert self._peers is not None
                    call, finish = self._peers.call(name, count)
                    self._bench.once(call, finish)
                except Exception as raised:
                    error = raised
                failed = self._bench.slowest(float(error is not None)) > 0
            if failed:
                self._leave_out([name], error or RuntimeError("another rank could not"))
            else:
                found.append(System(name, call, finish))
        return found

    def _leave_out(self, names: list[str], error: Exception) -> None:
        for name in names:
            self._bench.say(without=name, because=str(error)[:400])
            self._names.remove(name)


def plan(bench: Bench, system: System, share_s: float, most: int, rounds: int) -> None:
    """How many calls, from what a few take: `share_s` is all the time that this system has here."""
    for few in (1, 5):
        with bench.bounded(system.name):
            found = bench.seconds(system.call, few, system.finish)
        one_s = bench.slowest(max(found[0], 1e-7))
        if one_s > FEW_S:
            break
    in_all = int(share_s / one_s)
    if in_all < LEAST_CALLS:
        system.times.append(found)
        system.rounds = 0
        return
    # Each round has one more to begin with.
    system.rounds = min(rounds, in_all // 2)
    system.calls = max(1, min(most, in_all // system.rounds - 1))


def measure(bench: Bench, systems: list[System], share_s: float, options: Any) -> None:
    for system in systems:
        plan(bench, system, share_s, options.calls, options.rounds)
    for turn in range(options.rounds):
        for system in systems:
            if turn < system.rounds:
                with bench.bounded(system.name, peers.HUNG_S + share_s):
                    bench.once(system.call, system.finish)
                    system.times.append(bench.seconds(system.call, system.calls, system.finish))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, nargs="+", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=MOST_CALLS)
    parser.add_argument("--seconds", type=float, default=60, help="for all of it")
    parser.add_argument("--peers", nargs="*", default=[], choices=peers.NAMES)
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    driver = Driver()
    shared = driver.ranks_share
    peers.prepare(int(os.environ.get("RANK", "0")), shared)
    bench = Bench(shoal.init(), driver)
    comm = bench.comm
    bench.say(device=driver.name, shared=shared)
    bandwidth = copy_bandwidth(bench, max(options.bytes), 10)
    others = Others(bench, options.peers, shared, driver.device)
    for index, size in enumerate(options.bytes):
        x = comm.empty(max(1, size // 4), "float32", device="cuda")
        x.copy_from_host(np.zeros(x.shape, "float32"))
        systems = own_systems(bench, x) + others.systems(x.shape[0])
        left_s = bench.slowest(max(0.0, end - time.monotonic()))
        measure(bench, systems, left_s / (len(options.bytes) - index) / len(systems), options)
        # Each rank reads its slice of every input and writes it to every output.
        floor = 2 * size * comm.size / bandwidth
        for system in systems:
            medians = [statistics.median(times) for times in zip(*system.times, strict=True)]
            whole, host = map(bench.slowest, medians)
            bench.say(
                ranks=comm.size, bytes=size, system=system.name, us=whole * 1e6,
                host_us=host * 1e6, floor_us=floor * 1e6, copy_gb_s=bandwidth / 1e9,
                rounds=len(system.times), calls=system.calls,
            )  # fmt: skip
    comm.barrier()
    # Peers that share a GPU may take long to say goodbye to each other; nothing is waited for.
    os._exit(0)


if __name__ == "__main__":
    main()

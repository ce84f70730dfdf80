"""Times every algorithm, on every rank: ``python -m shoal.tune.worker SPEC``, not for people.

A round visits each cell (collective, size) once, and in it all its algorithms in turn, A B C, so
that what changes over minutes meets all of them alike. A visit makes some calls, each behind a
barrier; a call has taken as long as it took on the slowest rank. A visit's time is the median of
its calls, an algorithm's the median of its visits.

Barriers and what ranks tell one another go over a communicator of their own: the algorithms that
are being timed are not used for it.
"""

from __future__ import annotations

import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

import shoal
from shoal._core import Communicator
from shoal.tune.results import NO_TABLE, Cell, Measured, OneNode, Progress, Spec, tell

DTYPE = "float32"
ITEM_BYTES = 4
FIRST_CALLS = 3  # of a visit, while nothing is known
MOST_CALLS = 40
VISIT_SECONDS = 0.05
CALL_TIMEOUT_SECONDS = 120.0
HOST_BYTES = 64
MOST_HOSTS = 8  # named in the table
STOP = 0  # in the place of a number of calls

Call = Callable[[], object]


@dataclass
class Candidates:
    """A cell while it is being measured: its algorithms, and their visits' times in us."""

    collective: str
    count: int
    up_to_bytes: int
    builtin: str
    visits: dict[str, list[float]] = field(default_factory=dict)

    def cell(self) -> Cell:
        medians = {name: statistics.median(times) for name, times in self.visits.items()}
        rounds = min(len(times) for times in self.visits.values())
        return Cell(self.collective, self.up_to_bytes, self.builtin, medians, rounds)


class Bench:
    """The buffers, and the call of a cell. Ranks need not know what others hold: it is ones."""

    def __init__(self, comm: Communicator, most_bytes: int) -> None:
        count = most_bytes // ITEM_BYTES + comm.size
        self._comm = comm
        self._source, self._target = comm.empty(count, DTYPE), comm.empty(count, DTYPE)
        self._source[:] = 1
        self._target[:] = 1

    def call(self, collective: str, count: int) -> Call:
        comm, is_root = self._comm, self._comm.rank == 0
        one, all_ = self._source[:count], self._source[: count * comm.size]
        one_out, all_out = self._target[:count], self._target[: count * comm.size]
        calls: dict[str, Call] = {
            "barrier": comm.barrier,
            "broadcast": lambda: comm.broadcast(one),
            "reduce": lambda: comm.reduce(one, out=one_out),
            "all_reduce": lambda: comm.all_reduce(one, out=one_out),
            "all_gather": lambda: comm.all_gather(one, out=all_out),
            "reduce_scatter": lambda: comm.reduce_scatter(all_, out=one_out),
            "all_to_all": lambda: comm.all_to_all(all_, out=all_out),
            "gather": lambda: comm.gather(one, out=all_out),
            "scatter": lambda: comm.scatter(all_ if is_root else None, out=one_out),
        }
        return calls[collective]


class Tuner:
    def __init__(self, comm: Communicator, spec: Spec) -> None:
        self._comm = comm
        control = comm.split(0)
        assert control is not None
        self._control = control
        self._spec = spec
        self._cells = list(self._plan())
        self.planned = len(self._cells)
        self._bench = Bench(comm, max((c.up_to_bytes for c in self._cells), default=0))
        self._began = time.monotonic()  # rank 0's is the one that counts

    def run(self) -> list[Cell]:
        """Rounds until there are enough or the time is over. A round that is cut off does not count
        where it has not been through all the algorithms of a cell."""
        for number in range(self._spec.rounds):
            for candidates in self._cells:
                visits = self._round(candidates)
                if visits is None:
                    return self._measured()
                for name, us in visits.items():
                    candidates.visits[name].append(us)
            self._say(number + 1)
        return self._measured()

    def _measured(self) -> list[Cell]:
        return [c.cell() for c in self._cells if all(c.visits.values())]

    def _plan(self) -> Iterator[Candidates]:
        for collective in self._spec.collectives:
            names = self._comm._algorithms(collective)
            if len(names) < 2:
                continue
            bounds: set[int] = set()
            for size in [0] if collective == "barrier" else self._spec.sizes:
                count = self._comm._block_count(collective, size, DTYPE)
                up_to_bytes = max(size, self._least_bytes(collective, size))
                if up_to_bytes in bounds:
                    continue
                bounds.add(up_to_bytes)
                builtin = self._comm._algorithm(collective, count, DTYPE)
                yield Candidates(collective, count, up_to_bytes, builtin, {n: [] for n in names})

    def _least_bytes(self, collective: str, size: int) -> int:
        """Of the largest buffer if every block has an element at least; 0 where size is 0."""
        whole = collective in ("broadcast", "reduce", "all_reduce")
        return min(size, 1) * ITEM_BYTES * (1 if whole else self._comm.size)

    def _round(self, candidates: Candidates) -> dict[str, float] | None:
        """One visit to each algorithm of a cell, in us; None: the time is over."""
        call = self._bench.call(candidates.collective, candidates.count)
        times: dict[str, float] = {}
        try:
            for name, visits in candidates.visits.items():
                calls = self._agree_on_calls(visits)
                if calls == STOP:
                    return None
                self._comm._use_algorithm(candidates.collective, name)
                times[name] = self._visit(call, calls)
        finally:
            self._comm._use_algorithm(candidates.collective, None)
        return times

    def _agree_on_calls(self, visits: list[float]) -> int:
        """As many as fit a visit by what is known of it; rank 0 decides, by its clock."""
        calls = FIRST_CALLS
        if visits:
            calls = min(MOST_CALLS, max(FIRST_CALLS, round(VISIT_SECONDS * 1e6 / visits[-1])))
        if time.monotonic() - self._began > self._spec.seconds:
            calls = STOP
        return int(self._control.broadcast(np.array([calls])).item())

    def _visit(self, call: Call, calls: int) -> float:
        call()  # makes the plan and warms up connections
        ns = np.empty(calls)
        for i in range(calls):
            self._control.barrier()
            begin = time.perf_counter_ns()
            call()
            ns[i] = time.perf_counter_ns() - begin
        self._control.all_reduce(ns, op="max")
        return float(np.median(ns)) / 1e3

    def _say(self, number: int) -> None:
        if self._comm.rank == 0:
            seconds = time.monotonic() - self._began
            tell(Progress(f"round {number} of {self._spec.rounds} after {seconds:.0f} s"))


def hosts(comm: Communicator) -> list[str]:
    """The hosts' names, as far as a header holds them."""
    mine = np.zeros(HOST_BYTES, "uint8")
    name = socket.gethostname().encode()[:HOST_BYTES]
    mine[: len(name)] = np.frombuffer(name, "uint8")
    rows = comm.all_gather(mine).reshape(comm.size, HOST_BYTES)
    names = sorted({row.tobytes().rstrip(b"\0").decode(errors="replace") for row in rows})
    rest = len(names) - MOST_HOSTS
    return names if rest <= 0 else [*names[:MOST_HOSTS], f"and {rest} more"]


def main() -> None:
    spec = Spec.of(sys.argv[1])
    comm = shoal.init(timeout=CALL_TIMEOUT_SECONDS, tuning=NO_TABLE)
    if comm.nodes == 1:
        if comm.rank == 0:
            tell(OneNode(comm.size))
        return
    names = hosts(comm)
    tuner = Tuner(comm, spec)
    cells = tuner.run()
    if comm.rank == 0:
        shape = (comm.size, comm._node_ranks, comm.nodes)
        tell(Measured(*shape, names, comm._network, tuner.planned, cells))


if __name__ == "__main__":
    main()

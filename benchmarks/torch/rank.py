"""One rank: python -m shoal.bench.torch.rank SOCKET NAME RANK RANKS STORE.

Obeys the same commands as the drivers in C (drivers/harness.h), and `overlap`, which is answered by
what a trace of a training step shows, as JSON.
"""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
import torch.testing._internal.distributed.fake_pg  # registers the backend "fake"

import shoal.torch

from . import calls, overlap, training
from .cells import ALONE, FLOOR, GLOO, POOL, TRAININGS

_FLAG_BYTES = 64
_SPINS, _CROWDED_SPINS = 1 << 20, 8  # as in harness.c, for slower turns
_DEADLINE_SECONDS = 60.0
_POOL_SMALLEST = 4  # bytes: here small tensors are in the pool, too


class Barrier:
    """Of this run's own: one flag a rank in a shared file."""

    def __init__(self, path: str, rank: int, ranks: int, spins: int) -> None:
        with open(path, "r+b") as file:
            self._flags = memoryview(mmap.mmap(file.fileno(), _FLAG_BYTES * ranks)).cast("q")
        self._mine = rank * _FLAG_BYTES // 8
        self._all = range(0, ranks * _FLAG_BYTES // 8, _FLAG_BYTES // 8)
        self._spins, self._met = spins, 0

    def meet(self) -> None:
        self._met += 1
        self._flags[self._mine] = self._met
        for at in self._all:
            turns = 0
            while self._flags[at] < self._met:
                turns += 1
                if turns > self._spins:
                    self._yield(turns)

    def _yield(self, turns: int) -> None:
        os.sched_yield()
        if turns == self._spins + 1:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > _DEADLINE_SECONDS:
            raise SystemExit(f"waited {_DEADLINE_SECONDS:g} s for another rank; giving up")


class Groups:
    """Process groups of all ranks, one for each backend."""

    def __init__(self, store: str, rank: int, ranks: int) -> None:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
        self._rank, self._ranks = rank, ranks
        self.gloo = dist.group.WORLD
        self.shoal = dist.new_group(backend="shoal")
        self.fake = dist.new_group(backend="fake")

    def place(self, contender: str) -> calls.Place:
        group = {GLOO: self.gloo, FLOOR: self.fake}.get(contender, self.shoal)
        in_pool = contender == POOL
        memory = partial(shoal.torch.pool, self.shoal, smallest=_POOL_SMALLEST)
        return calls.Place(
            group,
            self._rank,
            self._ranks,
            memory if in_pool else contextlib.nullcontext,
            self._check_in_pool if in_pool else lambda tensor: None,
        )

    def _check_in_pool(self, tensor: torch.Tensor) -> None:
        if not shoal.torch.in_pool(tensor, self.shoal):
            raise ValueError(f"the pool is full: no {tensor.nbytes} bytes in it")


class Rank:
    def __init__(self, rank: int, ranks: int, groups: Groups) -> None:
        self._rank, self._ranks, self._groups = rank, ranks, groups
        self._barrier: Barrier | None = None
        self._cell: tuple[str, int] | None = None
        self._made: dict[str, calls.Operation | training.Pair] = {}  # of the cell, by contender
        self._contender = ""
        self._commands: dict[str, Callable[..., str]] = {
            "start": self._start,
            "prepare": self._prepare,
            "time": self._time,
            "overlap": self._overlap,
            "release": self._release,
        }

    def obey(self, line: str) -> str:
        word, *rest = line.split()
        try:
            return f"ok{self._commands[word](*rest)}"
        except Exception as error:  # over there it is one line of text
            traceback.print_exc(file=sys.stderr)
            return f"error {type(error).__name__}: " + " ".join(str(error).split())[:600]

    def _start(self, core: str, spin: str, barrier: str) -> str:
        del core  # not pinned: torchrun does not, and Gloo's threads are slower on the rank's core
        spins = _SPINS if int(spin) else _CROWDED_SPINS
        self._barrier = Barrier(barrier, self._rank, self._ranks, spins)
        return ""

    def _prepare(self, op: str, size: str, contender: str) -> str:
        if (op, int(size)) != self._cell:
            self._release()
            self._cell = (op, int(size))
        self._contender = contender
        name = contender.removesuffix(ALONE)
        if name not in self._made:
            place = self._groups.place(name)
            if op in TRAININGS:
                self._made[name] = training.make(TRAININGS[op], place, name == FLOOR)
            else:
                self._made[name] = calls.make(op, int(size), place)
        return ""

    def _release(self) -> str:
        self._made.clear()
        if self._cell and self._cell[0] in TRAININGS:
            gc.collect()  # models hold on to themselves
        self._cell = None
        return ""

    def _time(self, block: str, warm_up: str, repetitions: str, verify: str) -> str:
        made = self._made[self._contender.removesuffix(ALONE)]
        assert self._barrier is not None
        if isinstance(made, training.Pair):
            is_alone = self._contender.endswith(ALONE)
            operation = calls.Operation(made.alone if is_alone else made.step)
        else:
            operation = made
        gc.disable()  # as timeit does; a step may leave what only the next collection finds
        times = [
            _time_block(operation, self._barrier, int(block))
            for _ in range(int(warm_up) + int(repetitions))
        ]
        gc.enable()
        if int(verify) and self._contender != FLOOR and (wrong := operation.wrong()):
            raise ValueError(f"wrong result: {wrong}")
        return "".join(f" {time_ns}" for time_ns in times[int(warm_up) :])

    def _overlap(self) -> str:
        made = self._made[self._contender]
        assert isinstance(made, training.Pair) and self._barrier is not None
        return " " + json.dumps(overlap.trace(made.step, self._barrier.meet))


def _time_block(operation: calls.Operation, barrier: Barrier, block: int) -> int:
    call = operation.call
    operation.fill()
    barrier.meet()
    start = time.perf_counter_ns()
    for _ in range(block):
        call()
    return time.perf_counter_ns() - start


def _serve(path: str, hello: str, rank: Rank) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.connect(path)
        line.sendall(f"{hello}\n".encode())
        for text in line.makefile("r"):
            if text == "quit\n":
                return
            line.sendall(f"{rank.obey(text)}\n".encode())
        raise SystemExit("the orchestrator is gone")


def main() -> None:
    path, name, rank, ranks, store = sys.argv[1:]
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # over "fake", FSDP computes with whatever lies in memory
    torch.manual_seed(0)
    groups = Groups(store, int(rank), int(ranks))
    gc.collect()
    gc.freeze()  # modules stay, and need not be looked at again and again
    hello = f"hello {name} {rank} {ranks} torch {torch.__version__}"
    _serve(path, hello, Rank(int(rank), int(ranks), groups))
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # Gloo's threads are not waited for


if __name__ == "__main__":
    main()

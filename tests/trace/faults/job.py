"""The program that is disturbed: a loop of steps as in training, that checks every result.

    shoal run -n 4 python tests/trace/faults/job.py --seed 1 --directory DIR

A step computes a little and calls one or two collectives, of a size, kind and memory that the seed
and the step's number choose, on all ranks alike. In DIR it finds and leaves

    ready.R     written by rank R before its first step: its pid, host, and the job's name
    log.R       a line of JSON for each call (step, operation, begin and end in CLOCK_MONOTONIC ns)
                and for each disturbance from inside
    command.R   what rank R shall do to itself at its next step (DISTURBANCES); SIGUSR1 ends it
    stop        asks all ranks to end after their present step

Exits with 0, or with 3 if a result was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

import shoal

Array = npt.NDArray[np.float32]

WRONG_RESULT = 3
OPERATION_TIMEOUT_S = 300  # no disturbance is that long, in an emulated machine neither
MAX_COUNT = 1 << 17  # elements of a block: 512 KiB
OVERLAP_COUNT = 1 << 19  # 2 MiB: data that takes a while

_libc = ctypes.CDLL(None, use_errno=True)


# ---- disturbances from inside. Each has a name of its own, for the tracer to find on the stack.


def wait_for_data(command: dict[str, Any]) -> None:
    time.sleep(command["seconds"])


def tokenize(command: dict[str, Any]) -> None:
    """Long pure Python."""
    end = time.monotonic() + command["seconds"]
    words: dict[int, int] = {}
    while time.monotonic() < end:
        for i in range(1000):
            words[i % 97] = words.get(i % 97, 0) + i


def save_checkpoint(command: dict[str, Any]) -> None:
    """One long system call: somebody else holds the lock of this file."""
    with open(command["path"], "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def update_cache(command: dict[str, Any]) -> None:
    """Waits for a lock that another thread of this process holds."""
    lock, held = threading.Lock(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            time.sleep(command["seconds"])

    # Not waited for when the job ends, if this was healed before its time.
    threading.Thread(target=hold, name="cache-writer", daemon=True).start()
    held.wait()
    with lock:
        pass


def _fresh_memory(length: int) -> mmap.mmap:
    memory = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Huge pages would make of 16384 faults 32.
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory


def register_memory(command: dict[str, Any]) -> None:
    """Pins and unpins, as a library does that registers each buffer anew."""
    length = command["bytes"]
    end = time.monotonic() + command["seconds"]
    with _fresh_memory(length) as memory:
        view = ctypes.c_char.from_buffer(memory)
        address = ctypes.c_void_p(ctypes.addressof(view))
        try:
            while time.monotonic() < end:
                for call in (_libc.mlock, _libc.munlock):
                    if call(address, ctypes.c_size_t(length)) != 0:
                        raise OSError(ctypes.get_errno(), f"{call.__name__} of {length} bytes")
                memory.madvise(mmap.MADV_DONTNEED)  # the next mlock pins other pages
        finally:
            del view  # a view keeps the memory from being closed


def load_batch(command: dict[str, Any]) -> None:
    """Touches memory that is always new: each page is a fault."""
    end = time.monotonic() + command["seconds"]
    while time.monotonic() < end:
        with _fresh_memory(command["bytes"]) as memory:
            pages = np.frombuffer(memory, np.uint8)
            try:
                pages[:: mmap.PAGESIZE] = 1
            finally:
                del pages  # as above


def render_samples(command: dict[str, Any]) -> None:
    """Computes between the start of an operation and the wait for it, and drives nothing."""
    end = time.monotonic() + command["seconds"]
    matrix = np.ones((64, 64), np.float32)
    while time.monotonic() < end:
        matrix @ matrix


DISTURBANCES: dict[str, Callable[[dict[str, Any]], None]] = {
    "sleep": wait_for_data,
    "python": tokenize,
    "flock": save_checkpoint,
    "lock": update_cache,
    "mlock": register_memory,
    "pages": load_batch,
    "overlap": render_samples,
}

HEAL = signal.SIGUSR1


class Healed(Exception):
    """The disturbance is to end before its time."""


class _Disturbance:
    under_way = False


def _heal(*_: object) -> None:
    if _Disturbance.under_way:
        raise Healed


def block_healing() -> None:
    """At the begin, in the main thread: what the library starts later has the signal blocked, too,
    and no call of it is interrupted."""
    signal.signal(HEAL, _heal)
    signal.pthread_sigmask(signal.SIG_BLOCK, {HEAL})


def do_until_healed(command: dict[str, Any]) -> None:
    """For the time that the command says, or until HEAL comes. A thread that numpy has started may
    take one that comes too late, and Python then calls the handler here: it does nothing."""
    try:
        _Disturbance.under_way = True
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {HEAL})
        DISTURBANCES[command["do"]](command)
        _Disturbance.under_way = False
    except Healed:
        _Disturbance.under_way = False
    signal.pthread_sigmask(signal.SIG_BLOCK, {HEAL})


# ---- the job


class Log:
    """Lines of JSON, each written at once: the injector reads along. One thread."""

    def __init__(self, path: pathlib.Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, **fields: Any) -> None:
        os.write(self._fd, json.dumps(fields).encode() + b"\n")


class Compute:
    """A fixed amount of processor time, so that a rank without a processor takes longer."""

    def __init__(self, milliseconds: float) -> None:
        self._seconds = milliseconds / 1000
        self._matrix = np.eye(64, dtype=np.float32)

    def __call__(self, share: float = 1.0) -> None:
        end = time.thread_time() + self._seconds * share
        while time.thread_time() < end:
            self._matrix @ self._matrix


def expected_sum(base: Array, size: int) -> Array:
    return base * size + size * (size - 1) // 2


class Collectives:
    """Calls of one communicator, each with its check. Values are small integers: sums are exact."""

    def __init__(self, comm: shoal.Communicator, pool: bool) -> None:
        self.comm = comm
        self._pool = pool

    def _array(self, values: Array) -> Array:
        if not self._pool:
            return np.array(values, np.float32)
        array: Array = self.comm.empty(len(values), "float32")
        array[:] = values
        return array

    def all_reduce(self, base: Array, between: Callable[[], None] | None) -> bool:
        x = self._array(base + self.comm.rank)
        if between is None:
            self.comm.all_reduce(x)
        else:
            work = self.comm.all_reduce(x, async_op=True)
            between()
            work.wait()
        return bool((x == expected_sum(base, self.comm.size)).all())

    def broadcast(self, base: Array, between: Callable[[], None] | None) -> bool:
        root = len(base) % self.comm.size
        x = self._array(base + self.comm.rank)
        self.comm.broadcast(x, root=root)
        # A broadcast's root waits for nobody; the job's ranks shall not run away from each other.
        total = self.comm.all_reduce(np.ones(1, np.float32))
        return bool((x == base + root).all()) and total[0] == self.comm.size

    def all_gather(self, base: Array, between: Callable[[], None] | None) -> bool:
        rows = self.comm.all_gather(self._array(base + self.comm.rank)).reshape(self.comm.size, -1)
        return all((rows[r] == base + r).all() for r in range(self.comm.size))

    def reduce_scatter(self, base: Array, between: Callable[[], None] | None) -> bool:
        x = self._array(np.tile(base, self.comm.size) + self.comm.rank)
        part = self.comm.reduce_scatter(x)
        return bool((part == expected_sum(base, self.comm.size)).all())

    def all_to_all(self, base: Array, between: Callable[[], None] | None) -> bool:
        blocks = [base + 10 * self.comm.rank + r for r in range(self.comm.size)]
        rows = self.comm.all_to_all(self._array(np.concatenate(blocks))).reshape(len(blocks), -1)
        return all((rows[r] == base + 10 * r + self.comm.rank).all() for r in range(len(blocks)))

    def barrier(self, base: Array, between: Callable[[], None] | None) -> bool:
        self.comm.barrier()
        return True


KINDS = ("all_reduce",) * 6 + (
    "broadcast", "all_gather", "reduce_scatter", "all_to_all", "barrier",
)  # fmt: skip


class Job:
    """One rank's loop of steps. One thread."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.directory: pathlib.Path = options.directory
        self.comm = shoal.init(timeout=OPERATION_TIMEOUT_S)
        self.rank = self.comm.rank
        half = self.comm.split(self.rank % 2) if options.split else None
        pool = options.memory == "pool"
        self.groups = [Collectives(c, pool) for c in (half, self.comm) if c is not None]
        self.log = Log(self.directory / f"log.{self.rank}")
        self.compute = Compute(options.compute_ms)
        self.command_file = self.directory / f"command.{self.rank}"
        self.command: dict[str, Any] | None = None

    def say_ready(self) -> None:
        state = {"rank": self.rank, "pid": os.getpid(), "job": self.comm.job}
        written = self.directory / f"writing.{self.rank}"
        written.write_text(json.dumps(state))
        written.rename(self.directory / f"ready.{self.rank}")

    def take_command(self) -> None:
        """What shall be done in this step; a repeated one stands until its file is removed."""
        try:
            self.command = json.loads(self.command_file.read_text())
        except FileNotFoundError:
            self.command = None
            return
        if not self.command.get("repeat"):
            self.command_file.unlink(missing_ok=True)

    def disturb(self, place: str) -> None:
        """Does what the command says, if it is meant for this place: "before" or "within"."""
        command = self.command
        if command is None or command.get("place", "before") != place:
            return
        self.log.write(disturbance=command["do"], begin=time.monotonic_ns())
        do_until_healed(command)
        self.log.write(disturbance=command["do"], end=time.monotonic_ns())

    def between(self) -> None:
        self.compute(0.3)
        self.disturb("within")

    def is_last(self, step: int) -> bool:
        """Rank 0 decides before the collectives of the step, and the others read it after them."""
        agreed = self.directory / "last"
        if self.rank == 0 and not agreed.exists() and (self.directory / "stop").exists():
            written = self.directory / "writing.last"
            written.write_text(str(step + 1))
            written.rename(agreed)
        try:
            return int(agreed.read_text()) == step
        except FileNotFoundError:
            return False

    def call(self, step: int, group: Collectives, generator: np.random.Generator) -> bool:
        kind = KINDS[generator.integers(len(KINDS))]
        count = int(2 ** generator.uniform(0, np.log2(MAX_COUNT)))
        overlap = bool(generator.random() < 0.25)
        if self.options.overlap and group.comm is self.comm:
            kind, count, overlap = "all_reduce", OVERLAP_COUNT, True
        base = np.arange(count, dtype=np.float32) % 127
        begin = time.monotonic_ns()
        right = bool(getattr(group, kind)(base, self.between if overlap else None))
        self.log.write(
            step=step, operation=kind, size=group.comm.size, begin=begin, end=time.monotonic_ns()
        )
        return right

    def run(self) -> int:
        imbalance = np.random.default_rng([self.options.seed, self.rank])
        for step in range(self.options.steps):
            self.take_command()
            self.disturb("before")
            self.compute(imbalance.uniform(0.5, 1.0))
            time.sleep(self.options.pause_ms / 1000)
            if self.is_last(step):
                return 0
            generator = np.random.default_rng([self.options.seed, step])
            for group in self.groups:
                if not self.call(step, group, generator):
                    print(f"rank {self.rank}: wrong result in step {step}", flush=True)
                    return WRONG_RESULT
        return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--directory", type=pathlib.Path, required=True)
    parser.add_argument("--steps", type=int, default=1_000_000, help="at most")
    parser.add_argument("--compute-ms", type=float, default=3, help="processor time of a step")
    # As if a device computed: ranks that outnumber cores would preempt one another all the time.
    parser.add_argument("--pause-ms", type=float, default=4)
    parser.add_argument("--memory", choices=("pool", "ordinary"), default="pool")
    parser.add_argument("--split", action="store_true", help="also within halves of the job")
    parser.add_argument("--overlap", action="store_true", help="large operations, computed beside")
    block_healing()
    job = Job(parser.parse_args())
    job.say_ready()
    code = job.run()
    if code == 0:
        job.comm.finalize()
    return code


if __name__ == "__main__":
    raise SystemExit(main())

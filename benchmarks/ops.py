"""Times shoal's collectives beside what the machine can do at all, in one run.

    shoal run -n 2 python benchmarks/ops.py [--ops all_reduce] [--sizes 8,1Ki,1Mi] [--json FILE]

Method. For each operation and size, ROUNDS rounds; a round times a block of calls, and then a
block of the floor, so that both meet the same machine. A round's time is that of its slowest rank;
a row shows the median of the rounds. Every result is checked before it is timed, and after.

Columns. `bytes` is the largest user buffer. `busbw` is the bandwidth a link would need in the best
algorithm (as nccl-tests defines it). The floor is numpy on private buffers of that size on every
rank at once, with no communication: `add` (c = a + b) for reductions, `copy` (b = a) for the rest.
`ratio` is time over floor; below 1 means that the ranks shared the work. Times include the Python
call: this is what a Python program sees, and says little of the library itself below 16 KiB. Two
numbers are comparable only within one run.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import shoal

ROUNDS = 9
BLOCK_SECONDS = 0.01  # a block is as many calls as fit, agreed by all ranks
MAX_CALLS = 2000
SIZES = "8,1Ki,16Ki,128Ki,1Mi,16Mi,64Mi"
OPS = ("barrier", "all_reduce", "broadcast", "all_gather", "reduce_scatter", "all_to_all")


@dataclass(frozen=True)
class Case:
    """One operation on buffers made for it. `check` raises when the result is wrong."""

    call: Callable[[], object]
    check: Callable[[], None]
    floor: Callable[[], object] | None
    bytes: int
    bus_factor: float  # bytes on the busiest link, over `bytes`


@dataclass(frozen=True)
class Row:
    op: str
    bytes: int
    median_us: float
    best_us: float
    busbw_gbs: float | None
    floor: str | None
    floor_us: float | None
    ratio: float | None


def private_ones(n: int) -> Any:
    """A page-aligned array. Where numpy puts one, 16 bytes past a page, glibc's memcpy into it is 8
    times slower on some AMD processors (sourceware bug 30994): that would be a floor to brag with.
    """
    room = np.zeros(n * 4 + mmap.PAGESIZE, np.uint8)
    begin = -room.ctypes.data % mmap.PAGESIZE
    array = room[begin : begin + n * 4].view(np.float32)
    array[:] = 1
    return array


def add_floor(n: int) -> Callable[[], object]:
    a, b, c = (private_ones(n) for _ in range(3))
    return lambda: np.add(a, b, out=c)


def copy_floor(n: int) -> Callable[[], object]:
    a, b = (private_ones(n) for _ in range(2))
    return lambda: np.copyto(b, a)


def expect(array: Any, value: Any, what: str) -> None:
    if not np.array_equal(np.asarray(array), np.broadcast_to(value, np.shape(array))):
        raise SystemExit(f"benchmark: {what} gave a wrong result; nothing is measured")


def make_case(comm: Any, op: str, size: int) -> Case:
    """Buffers from the pool (zero-copy); a multiple of the ranks in elements, at least one each."""
    ranks, rank = comm.size, comm.rank
    part = max(1, size // 4 // ranks)
    whole = part * ranks
    low = comm.empty(part, "float32")  # what each rank gives to, or gets of, the whole
    full, result = comm.empty(whole, "float32"), comm.empty(whole, "float32")
    low[:], full[:], result[:] = rank + 1, rank + 1, 0
    total = ranks * (ranks + 1) / 2
    by_rank = np.repeat(np.arange(1, ranks + 1, dtype=np.float32), part)
    one_link = (ranks - 1) / ranks

    def check(output: Any, value: Any) -> Callable[[], None]:
        return lambda: expect(output, value, op)

    floor = add_floor(whole) if "reduce" in op else copy_floor(whole)
    bytes_ = whole * 4
    table: dict[str, Callable[[], Case]] = {
        "barrier": lambda: Case(comm.barrier, lambda: None, None, 0, 0),
        "all_reduce": lambda: Case(
            lambda: comm.all_reduce(full, out=result),
            check(result, total),
            floor,
            bytes_,
            2 * one_link,
        ),
        "broadcast": lambda: Case(
            lambda: comm.broadcast(full, root=0), check(full, 1), floor, bytes_, 1
        ),
        "all_gather": lambda: Case(
            lambda: comm.all_gather(low, out=result),
            check(result, by_rank),
            floor,
            bytes_,
            one_link,
        ),
        "reduce_scatter": lambda: Case(
            lambda: comm.reduce_scatter(full, out=low), check(low, total), floor, bytes_, one_link
        ),
        "all_to_all": lambda: Case(
            lambda: comm.all_to_all(full, out=result),
            check(result, by_rank),
            floor,
            bytes_,
            one_link,
        ),
    }
    return table[op]()


def seconds_of(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(calls):
        call()
    return (time.perf_counter_ns() - start) / 1e9 / calls


def slowest(comm: Any, seconds: list[float]) -> list[float]:
    """Element by element, the largest of all ranks' values."""
    return [float(value) for value in comm.all_reduce(np.array(seconds), op="max")]


def agree_on_calls(comm: Any, call: Callable[[], object]) -> int:
    comm.barrier()
    once = slowest(comm, [seconds_of(call, 3)])[0]
    return max(1, min(MAX_CALLS, int(BLOCK_SECONDS / max(once, 1e-9))))


def measure(comm: Any, op: str, size: int) -> Row:
    case = make_case(comm, op, size)
    case.call()
    case.check()
    calls = agree_on_calls(comm, case.call)
    floor_calls = agree_on_calls(comm, case.floor) if case.floor else 0
    times, floors = [], []
    for _ in range(ROUNDS):
        comm.barrier()
        times.append(seconds_of(case.call, calls))
        if case.floor:
            comm.barrier()
            floors.append(seconds_of(case.floor, floor_calls))
    case.check()
    times, floors = slowest(comm, times), slowest(comm, floors) if floors else []
    median = float(np.median(times))
    floor = float(np.median(floors)) if floors else None
    return Row(
        op=op,
        bytes=case.bytes,
        median_us=median * 1e6,
        best_us=min(times) * 1e6,
        busbw_gbs=case.bytes * case.bus_factor / median / 1e9 if case.bytes else None,
        floor=None if floor is None else "add" if "reduce" in op else "copy",
        floor_us=None if floor is None else floor * 1e6,
        ratio=None if floor is None else median / floor,
    )


def parse_size(text: str) -> int:
    units = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
    return int(text[:-2]) * units[text[-2:]] if text[-2:] in units else int(text)


def rows(comm: Any, ops: list[str], sizes: list[int]) -> Iterator[Row]:
    for op in ops:
        for size in [0] if op == "barrier" else sizes:
            yield measure(comm, op, size)


def cell(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"


def line(row: Row) -> str:
    return (
        f"{row.op:<15}{row.bytes:>10}{row.median_us:>12.2f}{row.best_us:>12.2f}"
        f"{cell(row.busbw_gbs, 9, 2)}{row.floor or '-':>7}{cell(row.floor_us, 12, 2)}"
        f"{cell(row.ratio, 8, 2)}"
    )


def conditions(comm: Any) -> dict[str, object]:
    return {
        "shoal": shoal.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "ranks": comm.size,
        "rounds": ROUNDS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="times shoal's collectives")
    parser.add_argument("--ops", default=",".join(OPS), help=f"of {', '.join(OPS)}")
    parser.add_argument("--sizes", default=SIZES, help=f"bytes, e.g. {SIZES}")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    ops = options.ops.split(",")
    if unknown := set(ops) - set(OPS):
        parser.error(f"no such operation: {', '.join(sorted(unknown))}; there are {', '.join(OPS)}")
    comm = shoal.init()
    if comm.rank == 0:
        print(*(f"{name} {value}" for name, value in conditions(comm).items()), sep=", ")
        print(f"{'op':<15}{'bytes':>10}{'median us':>12}{'best us':>12}{'busbw':>9}", end="")
        print(f"{'floor':>7}{'floor us':>12}{'ratio':>8}", flush=True)
    done = []
    for row in rows(comm, ops, [parse_size(size) for size in options.sizes.split(",")]):
        done.append(row)
        if comm.rank == 0:
            print(line(row), flush=True)
    if options.json and comm.rank == 0:
        report = {"conditions": conditions(comm), "rows": [asdict(row) for row in done]}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

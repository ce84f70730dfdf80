"""Every collective on CUDA memory beside the same one on host memory, bit for bit: what a GPU has
to show first (docs/gpu.md). A program for `shoal run`; needs numpy and nothing else of Python.

With --threads N the ranks are threads of this one process, whose kernels wait for one another, each
on a stream of its own. --quick: fewer sizes.

Runs over the stand-in driver too, which is how it is tested itself.
"""

from __future__ import annotations

import argparse
import os
import socket
import threading
import traceback
from typing import Any

import numpy as np

import shoal

FLOATS = ["float32", "float64", "float16"]
SMALL = ["bfloat16", "float8_e4m3fn", "float8_e5m2"]  # numpy has them where ml_dtypes is installed
try:
    import ml_dtypes  # noqa: F401
except ImportError:
    pass
else:
    FLOATS += SMALL
INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
OPS = ("sum", "prod", "min", "max")
# Around a vector, a line, a slice, a block of threads, and more than all blocks take at once.
COUNTS = (1, 3, 17, 1000, 65_537, 1_000_003)
QUICK_COUNTS = COUNTS[:4]
PER_THREAD = 2  # the handle of a thread's own default stream


def on_device(comm: shoal.Communicator, array: Any) -> shoal.CudaArray:
    made = comm.empty(array.shape, array.dtype, device="cuda")
    made.copy_from_host(array)
    return made


class Wrong(Exception):
    pass


def check(comm: shoal.Communicator, stream: int | None, name: str, x: Any, **options: Any) -> None:
    want = getattr(comm, name)(x.copy(), **options)
    got = getattr(comm, name)(on_device(comm, x), stream=stream, **options)
    if (got is None) != (want is None):
        raise Wrong(f"{name}: {got} instead of {want}")
    if got is not None and got.copy_to_host().tobytes() != want.tobytes():
        different = np.flatnonzero(got.copy_to_host().ravel() != want.ravel())
        raise Wrong(
            f"rank {comm.rank}: {name}({x.dtype}, {x.shape}, {options}) differs from the host's "
            f"in {different.size} elements, the first at {different[:1]}"
        )


def compare(comm: shoal.Communicator, counts: tuple[int, ...], stream: int | None) -> None:
    checks = 0
    for dtype in FLOATS + INTEGERS:
        random = np.random.default_rng(comm.rank)
        for count in counts:
            # Small numbers with a fraction: sums round, products stay finite.
            rows = random.integers(1, 9, size=(comm.size, count)).astype(dtype)
            if dtype in FLOATS:
                rows += random.random(rows.shape).astype(dtype)
            row = np.ascontiguousarray(rows[0])
            for op in (*OPS, "avg") if dtype in FLOATS else (*OPS, "band", "bor", "bxor"):
                check(comm, stream, "all_reduce", row, op=op)
                checks += 1
            root = comm.size - 1
            check(comm, stream, "reduce", row, root=root)
            check(comm, stream, "broadcast", row, root=root)
            check(comm, stream, "all_gather", row)
            check(comm, stream, "gather", row, root=root)
            check(comm, stream, "reduce_scatter", rows)
            check(comm, stream, "all_to_all", rows)
            checks += 6
    comm.barrier()
    if comm.rank == 0:
        how = "" if stream is None else " as threads"
        print(
            f"{checks} collectives on CUDA memory have the bits of the host, {comm.size} ranks{how}"
        )
        if SMALL[0] not in FLOATS:
            print(f"not looked at, for want of ml_dtypes: {', '.join(SMALL)}")


def run_threads(ranks: int, counts: tuple[int, ...]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        store = f"127.0.0.1:{listener.getsockname()[1]}"

    def live(rank: int) -> None:
        try:
            comm = shoal.init(
                rank=rank, size=ranks, store=store, secret="of this process", timeout=30
            )
            compare(comm, counts, PER_THREAD)
        except BaseException:  # the others wait for this rank
            traceback.print_exc()
            os._exit(1)

    threads = [threading.Thread(target=live, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, metavar="RANKS")
    options = parser.parse_args()
    counts = QUICK_COUNTS if options.quick else COUNTS
    if options.threads:
        run_threads(options.threads, counts)
    else:
        compare(shoal.init(), counts, None)


if __name__ == "__main__":
    main()

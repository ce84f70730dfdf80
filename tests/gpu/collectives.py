"""Every collective on CUDA memory beside the same one on host memory, bit for bit: what a GPU has
to show first (docs/gpu.md). A program for `shoal run`; needs numpy and nothing else of Python.

Runs over the stand-in driver too, which is how it is tested itself.
"""

from __future__ import annotations

import sys
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


def on_device(comm: shoal.Communicator, array: Any) -> shoal.CudaArray:
    made = comm.empty(array.shape, array.dtype, device="cuda")
    made.copy_from_host(array)
    return made


def check(comm: shoal.Communicator, name: str, x: Any, **options: Any) -> None:
    want = getattr(comm, name)(x.copy(), **options)
    got = getattr(comm, name)(on_device(comm, x), **options)
    if (got is None) != (want is None):
        sys.exit(f"{name}: {got} instead of {want}")
    if got is not None and got.copy_to_host().tobytes() != want.tobytes():
        different = np.flatnonzero(got.copy_to_host().ravel() != want.ravel())
        sys.exit(
            f"rank {comm.rank}: {name}({x.dtype}, {x.shape}, {options}) differs from the host's "
            f"in {different.size} elements, the first at {different[:1]}"
        )


def main() -> None:
    comm = shoal.init()
    checks = 0
    for dtype in FLOATS + INTEGERS:
        random = np.random.default_rng(comm.rank)
        for count in QUICK_COUNTS if "--quick" in sys.argv else COUNTS:
            # Small numbers with a fraction: sums round, products stay finite.
            rows = random.integers(1, 9, size=(comm.size, count)).astype(dtype)
            if dtype in FLOATS:
                rows += random.random(rows.shape).astype(dtype)
            row = np.ascontiguousarray(rows[0])
            for op in (*OPS, "avg") if dtype in FLOATS else (*OPS, "band", "bor", "bxor"):
                check(comm, "all_reduce", row, op=op)
                checks += 1
            root = comm.size - 1
            check(comm, "reduce", row, root=root)
            check(comm, "broadcast", row, root=root)
            check(comm, "all_gather", row)
            check(comm, "gather", row, root=root)
            check(comm, "reduce_scatter", rows)
            check(comm, "all_to_all", rows)
            checks += 6
    comm.barrier()
    if comm.rank == 0:
        print(f"{checks} collectives on CUDA memory have the bits of the host, {comm.size} ranks")
        if SMALL[0] not in FLOATS:
            print(f"not looked at, for want of ml_dtypes: {', '.join(SMALL)}")


if __name__ == "__main__":
    main()

"""shoal: collective communication for training and HPC jobs.

    import shoal

    comm = shoal.init()                      # rank and size come from `shoal run`
    x = comm.empty(1024, "float32")          # pool memory: moved without a copy
    x[:] = comm.rank
    comm.all_reduce(x)                       # in place; any other array works too

Arrays are numpy arrays, or anything with the buffer protocol or DLPack. Dtypes: float32, float64,
float16, bfloat16, float8_e4m3fn and float8_e5m2 (ml_dtypes), int8 to int64, uint8 to uint64, bool.
Ops: sum, prod, min, max; avg of floats; band, bor, bxor of integers and bool.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import weakref
from collections.abc import Generator, Iterator
from typing import Any

from shoal import _core
from shoal._core import (
    Aborted,
    BootstrapError,
    BufferInUse,
    Communicator,
    CudaArray,
    DeviceError,
    Error,
    InvalidArgument,
    MismatchError,
    MissingLibrary,
    OutOfMemory,
    PeerFailed,
    SystemCallError,
    Timeout,
    TransportError,
    Work,
)
from shoal._ucx import ucx_directory

__all__ = [
    "Aborted",
    "BootstrapError",
    "BufferInUse",
    "Communicator",
    "CudaArray",
    "DeviceError",
    "Error",
    "InvalidArgument",
    "MismatchError",
    "MissingLibrary",
    "OutOfMemory",
    "PeerFailed",
    "SystemCallError",
    "Timeout",
    "TransportError",
    "Work",
    "__version__",
    "init",
    "numpy_pool",
]

__version__: str = _core.__version__

_jobs: weakref.WeakSet[Communicator] = weakref.WeakSet()
_latest: weakref.ref[Communicator] | None = None  # what init() has returned last


def init(
    *,
    rank: int = -1,
    size: int = -1,
    store: str = "",
    secret: str = "",
    timeout: float = 1800.0,
    init_timeout: float = 300.0,
    pool_bytes: int = 0,
    progress_thread: bool = False,
    network: str = "",
    tuning: str | os.PathLike[str] = "",
) -> Communicator:
    """Joins the job and returns the communicator of all its ranks. Collective.

    Started by `shoal run`, torchrun, Slurm, PMI or Open MPI, a program gives no argument; without a
    launcher it is one rank, or gives `rank`, `size`, `store="host:port"` (rank 0 serves it) and the
    job's `secret`.

    Units    `timeout` (of each operation) and `init_timeout` are seconds; `pool_bytes` bytes
             (0: SHOAL_POOL_BYTES, else the size of the node's memory).
    network  between nodes: "tcp", "ucx", or "auto" (UCX where all nodes have RDMA devices and a UCX
             with verbs, else TCP). "": SHOAL_NETWORK, else "auto".
    tuning   file of `shoal tune` (docs/tuning.md), read by rank 0 for all, and over several nodes
             only; "": SHOAL_TUNING_FILE, else ~/.config/shoal/tuning if it exists; "none": none.
    Raises   InvalidArgument, on all ranks, for a tuning file that is missing or malformed;
             BootstrapError or Timeout, naming the ranks that are missing or wrong.
    """
    comm = _core.init(
        rank,
        size,
        store,
        secret,
        timeout,
        init_timeout,
        pool_bytes,
        progress_thread,
        network,
        ucx_directory(),
        os.fspath(tuning),
    )
    global _latest
    _jobs.add(comm)
    _latest = weakref.ref(comm)
    return comm


@contextlib.contextmanager
def numpy_pool(comm: Communicator | None = None, *, smallest: int = 4096) -> Iterator[None]:
    """Inside, numpy makes its arrays in the pool, so that they are moved without a copy.

        with shoal.numpy_pool():
            x = np.ones(1 << 20)             # comm.in_pool(x)

    They live as long as anybody uses them, also after the block and after finalize(). It holds for
    the thread or asyncio task that enters it. Where the pool is full, and in a forked child, memory
    comes from where it came before. Zeroed arrays are zeroed here and not by the system.

    Units    arrays of `smallest` bytes and more; `comm`: the one that init() has returned last.
    Raises   InvalidArgument if there is none.
    """
    if comm is None and _latest is not None:
        comm = _latest()
    if comm is None:
        raise InvalidArgument("numpy_pool: call shoal.init() first, or give a communicator")
    before = _core.enter_numpy_pool(comm, smallest)
    try:
        yield
    finally:
        _core.leave_numpy_pool(before)


@atexit.register
def _leave() -> None:
    """Arrays may outlive the interpreter's care; a job is left in order all the same."""
    for comm in list(_jobs):
        comm.finalize()


def _await(self: Work) -> Generator[Any, None, Any]:
    """`await work`: yields to the event loop until the operation is done."""
    while not self.test():
        yield
    return self.wait()


Work.__await__ = _await  # type: ignore[method-assign]

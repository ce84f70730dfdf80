"""shoal's C++ core (csrc/python), as type checkers and readers see it.

Arrays    numpy, buffer protocol or DLPack on the CPU; C-contiguous; of dtype float32, float64,
          float16, bfloat16 (ml_dtypes), int8, int16, int32, int64, uint8, uint16, uint32, uint64
          or bool (which travels as uint8: to another rank they are the same). `comm.empty()` gives
          pool memory, which is moved without a copy; any other array works too.
Result    the array that was written: `out` if given, else as each call says.
Units     `timeout` is seconds; None: the communicator's.
async_op  True: returns a Work at once. Leave the arrays alone until it is done.
Threads   any; one communicator's collectives are called in the same order on all ranks.
Raises    InvalidArgument and BufferInUse before anything is posted; later MismatchError,
          PeerFailed, Timeout, Aborted, OutOfMemory, TransportError. After these (a mismatch in one
          node excepted) the communicator has ended, and no array of the operation is written any
          more.

The examples run (tests/python/test_stubs.py), on any number of ranks, after

    import numpy as np, shoal
    comm = shoal.init()
"""

from collections.abc import Generator, Iterable
from typing import Any, Literal, Protocol, TypeAlias, TypedDict, TypeVar, overload

import numpy as np
import numpy.typing as npt
from typing_extensions import Buffer

class _DLPack(Protocol):
    def __dlpack__(self, *, stream: Any = ...) -> Any: ...

_Array: TypeAlias = npt.NDArray[Any] | Buffer | _DLPack
_A = TypeVar("_A", bound=_Array)
_New: TypeAlias = npt.NDArray[Any]  # made by the call, in pool memory
_Stream: TypeAlias = Any  # a handle, or what has `cuda_stream`, `ptr` or `__cuda_stream__`
_View: TypeAlias = npt.NDArray[Any]  # read-only, in another rank's pool memory
_Op: TypeAlias = Literal["sum", "prod", "min", "max", "avg", "band", "bor", "bxor"]
_Message: TypeAlias = tuple[Literal["send", "recv"], _Array, int | None, int]  # array, peer, tag

__version__: str

class Error(RuntimeError):
    """Base of all of shoal's errors. The text says what, where, and what to try."""

class InvalidArgument(Error, ValueError):
    """The call itself is wrong; nothing was posted."""

class MismatchError(Error):
    """Ranks called different things; the text names both sides. On all ranks."""

class PeerFailed(Error):
    """A rank died: which one, where, and of what. On all ranks."""

class Timeout(Error, TimeoutError):
    """The deadline passed; the text names the rank that was awaited."""

class Aborted(Error):
    """The communicator was aborted; the text has the reason."""

class OutOfMemory(Error, MemoryError):
    """A limit of a pool, the node or a cgroup is met: asked, limit, how to raise it."""

class TransportError(Error):
    """The network or its library failed."""

class BootstrapError(Error):
    """Ranks did not find one another: missing, duplicate, out of range, or of another version."""

class MissingLibrary(Error, ImportError):
    """An optional library is needed and is not installed; the text names the package."""

class SystemCallError(Error, OSError):
    """A system call failed."""

class DeviceError(Error):
    """A GPU or its driver failed; the text names the call and its error."""

class BufferInUse(Error, BufferError):
    """Other ranks hold views of memory that the call would write; names one. Nothing was posted."""

class CudaArray:
    """An array in CUDA memory, made by `comm.empty(..., device="cuda")`. C-contiguous.

    torch.from_dlpack, cupy.asarray and jax.dlpack.from_dlpack look at it without a copy. Its memory
    goes back to the pool with the last holder, when the streams that are known to use it have got
    so far: the legacy default stream, those that wait for it (all but non-blocking ones), those of
    record_stream(), and shoal's own work. Work on another stream: call record_stream(), or hold the
    array until that has ended.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def device(self) -> str:
        """ "cuda:0": the number is this process's."""
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3. Its stream is the legacy default one, which waits for what shoal does."""
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """`stream` is the consumer's: 1 or None the legacy default, 2 that of the thread, -1 no
        order, else a handle; from now on it waits for what shoal does with the array."""
    def copy_to_host(self) -> _New:
        """A new numpy array with the content. Blocks; comes after the legacy default stream and
        what is known to use the array. Raises Timeout, DeviceError."""
    def copy_from_host(self, source: _Array) -> None:
        """Takes the content of an array of the same shape and dtype. Blocks, as copy_to_host()."""
    def record_stream(self, stream: Any) -> None:
        """What is on this stream now uses the array. A handle, or an object with `cuda_stream`,
        `ptr` or `__cuda_stream__`."""

class Work:
    """An operation under way. Dropping it waits for the operation's end.

    >>> work = comm.all_reduce(np.ones(4), async_op=True)
    >>> work.wait().tolist() == [comm.size] * 4
    True
    """

    def wait(self) -> Any:
        """Blocks until the operation is done; returns its result or raises its error.

        Threads  the GIL is released. Ctrl-C aborts the communicator and raises KeyboardInterrupt.
        """
    def test(self) -> bool:
        """True when done, also by an error. Never blocks; gives pending operations a turn."""
    def exception(self) -> Error | None:
        """The error the operation ended with; None if there is none, or none yet."""
    @property
    def source(self) -> int | None:
        """Of a recv that is done: the rank whose message it got. Else None."""
    def __await__(self) -> Generator[Any, None, Any]:
        """`await work` gives what wait() gives, and lets the event loop run meanwhile."""

class _Pool(TypedDict):
    """A rank's pool memory; `committed_bytes` is what it holds from the system."""

    used_bytes: int
    committed_bytes: int
    peak_bytes: int
    limit_bytes: int
    blocks: int

class Communicator:
    """Collectives over a group of ranks. Made by shoal.init() and split()."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def nodes(self) -> int:
        """Nodes that its ranks stand on."""
    @property
    def id(self) -> int: ...
    @property
    def job(self) -> str:
        """The job's name, as `shoal ps` shows it."""
    @overload
    def barrier(
        self,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> None: ...
    @overload
    def barrier(
        self,
        async_op: Literal[True],
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> Work:
        """Returns when all ranks have called it. With `stream`: what follows there waits for all.

        >>> comm.barrier(timeout=10)
        """
    @overload
    def all_reduce(
        self,
        x: _A,
        op: _Op = "sum",
        out: None = None,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        deterministic: bool = False,
        stream: _Stream | None = None,
    ) -> _A: ...
    @overload
    def all_reduce(
        self,
        x: _Array,
        op: _Op = "sum",
        *,
        out: _A,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        deterministic: bool = False,
        stream: _Stream | None = None,
    ) -> _A: ...
    @overload
    def all_reduce(
        self,
        x: _Array,
        op: _Op = "sum",
        out: _Array | None = None,
        *,
        async_op: Literal[True],
        timeout: float | None = None,
        deterministic: bool = False,
        stream: _Stream | None = None,
    ) -> Work:
        """Reduces element-wise over all ranks; every rank receives the whole result.

        Shapes  x and out alike; without `out` in place: x is overwritten and returned.
        Ops     sum, prod, min and max of all dtypes; avg of floating ones; band, bor and bxor,
                which are bitwise, of integers; of bool sum, max and bor are "or", prod, min and
                band are "and". Any other pair is an InvalidArgument.
        Dtypes  float16 and bfloat16 accumulate in float32; NaN propagates in min and max; integers
                wrap around. `deterministic`: the same bits for any split of sizes, algorithm and
                order of arrival.
        CUDA    x and out may be CUDA memory (CudaArray, DLPack, the CUDA array interface), here and
                in the other collectives: a result is then ready for what follows on `stream`, and
                the call returns at once (`async_op`: with a Work to wait for). Without `stream` the
                operation is one of the legacy default stream and the call waits for it. The bits
                are those of the host. Between nodes the host does it, by way of its own memory.
                Errors that nobody waits for are raised by the next call. See docs/gpu.md.

        >>> x = np.full(3, comm.rank, "float32")
        >>> comm.all_reduce(x, op="max").tolist() == [comm.size - 1] * 3
        True
        >>> bool(comm.all_reduce(np.array([comm.rank == 0]), op="bor")[0])  # is it so anywhere?
        True
        """
    @overload
    def broadcast(
        self,
        x: _A,
        root: int = 0,
        out: None = None,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        view: Literal[False] = False,
        stream: _Stream | None = None,
    ) -> _A: ...
    @overload
    def broadcast(
        self,
        x: _Array,
        root: int = 0,
        *,
        out: _A,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        view: Literal[False] = False,
        stream: _Stream | None = None,
    ) -> _A: ...
    @overload
    def broadcast(
        self,
        x: _Array,
        root: int = 0,
        out: _Array | None = None,
        *,
        async_op: Literal[True],
        timeout: float | None = None,
        view: Literal[False] = False,
        stream: _Stream | None = None,
    ) -> Work: ...
    @overload
    def broadcast(
        self,
        x: _A,
        root: int = 0,
        out: None = None,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        *,
        view: Literal[True],
        stream: None = None,
    ) -> _A | _View:
        """Every rank receives root's x.

        Shapes  x and out alike, on all ranks; without `out` x is overwritten and returned.
        view    True: nothing is copied; root's x must be pool memory. Root receives x itself, the
                others a read-only array in root's memory; of their own x only shape and dtype
                count. While such arrays live, root's x is not writeable, calls that would write
                its memory raise BufferInUse, and its memory is not given back. See docs/views.md.
                Over several nodes: a read-only copy in each rank's pool.

        >>> comm.broadcast(np.array([comm.rank + 5]), root=0).tolist()
        [5]
        >>> x = comm.empty(4, "int64") if comm.rank == 0 else np.empty(4, "int64")
        >>> if comm.rank == 0:
        ...     x[:] = 5
        >>> comm.broadcast(x, root=0, view=True).tolist()
        [5, 5, 5, 5]
        """
    @overload
    def reduce(
        self,
        x: _A,
        root: int = 0,
        op: _Op = "sum",
        out: None = None,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        deterministic: bool = False,
        stream: _Stream | None = None,
    ) -> _A | None: ...
    @overload
    def reduce(
        self,
        x: _Array,
        root: int = 0,
        op: _Op = "sum",
        *,
        out: _A,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        deterministic: bool = False,
        stream: _Stream | None = None,
    ) -> _A | None: ...
    @overload
    def reduce(
        self,
        x: _Array,
        root: int = 0,
        op: _Op = "sum",
        out: _Array | None = None,
        *,
        async_op: Literal[True],
        timeout: float | None = None,
        deterministic: bool = False,
        stream: _Stream | None = None,
    ) -> Work:
        """Reduces element-wise over all ranks; root receives the result, the others None.

        Shapes  x and, at root, out alike; without `out` root's x is overwritten and returned.
        Dtypes  as all_reduce.

        >>> total = comm.reduce(np.ones(2, "int64"), root=0)
        >>> total is None or total.tolist() == [comm.size] * 2
        True
        """
    @overload
    def all_gather(
        self,
        x: CudaArray,
        out: None = None,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        view: Literal[False] = False,
        stream: _Stream | None = None,
    ) -> CudaArray: ...
    @overload
    def all_gather(
        self,
        x: _Array,
        out: None = None,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        view: Literal[False] = False,
        stream: _Stream | None = None,
    ) -> _New: ...
    @overload
    def all_gather(
        self,
        x: _Array,
        out: _A,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        view: Literal[False] = False,
        stream: _Stream | None = None,
    ) -> _A: ...
    @overload
    def all_gather(
        self,
        x: _Array,
        out: _Array | None = None,
        *,
        async_op: Literal[True],
        timeout: float | None = None,
        view: Literal[False] = False,
        stream: _Stream | None = None,
    ) -> Work: ...
    @overload
    def all_gather(
        self,
        x: _A,
        out: None = None,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        *,
        view: Literal[True],
        stream: None = None,
    ) -> list[_A | _View]:
        """Every rank receives every rank's x, in rank order.

        Shapes  x [n, ...], out [size * n, ...], as torch's all_gather_into_tensor. x may be the
                block of out that this rank owns (in place).
        view    True: nothing is copied; every x must be pool memory. The result is a list of `size`
                arrays: x itself, and of every other rank a read-only array in its memory. For the
                owner it is as with broadcast().

        >>> comm.all_gather(np.array([comm.rank])).tolist() == list(range(comm.size))
        True
        >>> x = comm.empty(1, "int64")
        >>> x[0] = comm.rank
        >>> [int(part[0]) for part in comm.all_gather(x, view=True)] == list(range(comm.size))
        True
        """
    @overload
    def reduce_scatter(
        self,
        x: CudaArray,
        op: _Op = "sum",
        out: None = None,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        deterministic: bool = False,
        stream: _Stream | None = None,
    ) -> CudaArray: ...
    @overload
    def reduce_scatter(
        self,
        x: _Array,
        op: _Op = "sum",
        out: None = None,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        deterministic: bool = False,
        stream: _Stream | None = None,
    ) -> _New: ...
    @overload
    def reduce_scatter(
        self,
        x: _Array,
        op: _Op = "sum",
        *,
        out: _A,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        deterministic: bool = False,
        stream: _Stream | None = None,
    ) -> _A: ...
    @overload
    def reduce_scatter(
        self,
        x: _Array,
        op: _Op = "sum",
        out: _Array | None = None,
        *,
        async_op: Literal[True],
        timeout: float | None = None,
        deterministic: bool = False,
        stream: _Stream | None = None,
    ) -> Work:
        """Reduces element-wise over all ranks; rank r receives block r of the result.

        Shapes  x [size * n, ...], out [n, ...], as torch's reduce_scatter_tensor. out may be the
                block of x that this rank owns (in place).
        Dtypes  as all_reduce.

        >>> comm.reduce_scatter(np.arange(comm.size)).tolist() == [comm.size * comm.rank]
        True
        """
    @overload
    def all_to_all(
        self,
        x: CudaArray,
        out: None = None,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> CudaArray: ...
    @overload
    def all_to_all(
        self,
        x: _Array,
        out: None = None,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> _New: ...
    @overload
    def all_to_all(
        self,
        x: _Array,
        out: _A,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> _A: ...
    @overload
    def all_to_all(
        self,
        x: _Array,
        out: _Array | None = None,
        *,
        async_op: Literal[True],
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> Work:
        """Block r of x goes to rank r; block r of the result comes from rank r.

        Shapes  x and out [size * n, ...]; not in place.

        >>> comm.all_to_all(np.full(comm.size, comm.rank)).tolist() == list(range(comm.size))
        True
        """
    @overload
    def gather(
        self,
        x: CudaArray,
        root: int = 0,
        out: None = None,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> CudaArray | None: ...
    @overload
    def gather(
        self,
        x: _Array,
        root: int = 0,
        out: None = None,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> _New | None: ...
    @overload
    def gather(
        self,
        x: _Array,
        root: int = 0,
        *,
        out: _A,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> _A | None: ...
    @overload
    def gather(
        self,
        x: _Array,
        root: int = 0,
        out: _Array | None = None,
        *,
        async_op: Literal[True],
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> Work:
        """Root receives every rank's x, in rank order; the others receive None.

        Shapes  x [n, ...], out at root [size * n, ...].

        >>> rows = comm.gather(np.array([comm.rank]), root=0)
        >>> rows is None or rows.tolist() == list(range(comm.size))
        True
        """
    @overload
    def scatter(
        self,
        x: CudaArray,
        root: int = 0,
        out: None = None,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> CudaArray: ...
    @overload
    def scatter(
        self,
        x: _Array | None,
        root: int = 0,
        out: None = None,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> _New: ...
    @overload
    def scatter(
        self,
        x: _Array | None,
        root: int = 0,
        *,
        out: _A,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> _A: ...
    @overload
    def scatter(
        self,
        x: _Array | None,
        root: int = 0,
        out: _Array | None = None,
        *,
        async_op: Literal[True],
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> Work:
        """Rank r receives block r of root's x.

        Shapes  x at root [size * n, ...] (elsewhere None), out [n, ...]. Ranks other than root need
                `out`: they cannot know the shape.

        >>> out = np.empty(1, "int64")
        >>> x = np.arange(comm.size) if comm.rank == 0 else None
        >>> comm.scatter(x, root=0, out=out).tolist() == [comm.rank]
        True
        """
    @overload
    def send(
        self,
        x: _A,
        to: int,
        tag: int = 0,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> _A: ...
    @overload
    def send(
        self,
        x: _Array,
        to: int,
        tag: int = 0,
        *,
        async_op: Literal[True],
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> Work:
        """Sends x to one rank; messages of one tag between one pair of ranks arrive in order.

        Units  0 <= tag < 2**24.
        CUDA   x may be CUDA memory, as in all_reduce, here, in recv and in batch: the message is
               then an operation of `stream`, and the call returns at once. A message from CUDA
               memory may be received into memory of the host, and the other way round. Those of a
               communicator come one after the other, whatever their streams: a send and a recv that
               wait for each other belong in one batch.

        >>> if comm.rank == 0 and comm.size > 1:
        ...     _ = comm.send(np.arange(3), to=1, tag=7)
        ... elif comm.rank == 1:
        ...     assert comm.recv(np.empty(3, "int64"), source=0, tag=7).tolist() == [0, 1, 2]
        """
    @overload
    def recv(
        self,
        out: _A,
        source: int | None = None,
        tag: int = 0,
        async_op: Literal[False] = False,
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> _A: ...
    @overload
    def recv(
        self,
        out: _Array,
        source: int | None = None,
        tag: int = 0,
        *,
        async_op: Literal[True],
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> Work:
        """Receives into out. Another size or dtype than was sent: MismatchError; where out is CUDA
        memory it ends the communicator.

        source  None: whoever sends; Work.source tells who it was. A message belongs to the recv of
                its tag that was called first, of those with source=None and those that name its
                sender: one that is called later waits. None of several senders is passed over for
                ever; their messages come in no certain order.

        >>> if comm.rank == 0:
        ...     for _ in range(comm.size - 1):
        ...         work = comm.recv(np.empty(1, "int64"), tag=8, async_op=True)
        ...         assert work.wait().tolist() == [work.source]
        ... else:
        ...     _ = comm.send(np.array([comm.rank]), to=0, tag=8)
        """
    @overload
    def batch(
        self,
        items: Iterable[_Message],
        async_op: Literal[False] = False,
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> list[Any]: ...
    @overload
    def batch(
        self,
        items: Iterable[_Message],
        async_op: Literal[True],
        timeout: float | None = None,
        stream: _Stream | None = None,
    ) -> list[Work]:
        """Starts all messages before it waits for any; a result for each, in order.

        items  ("send", array, to, tag) or ("recv", array, source, tag), with source as for recv().

        >>> right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        >>> got = np.empty(1, "int64")
        >>> _ = comm.batch([("send", np.array([comm.rank]), right, 0), ("recv", got, left, 0)])
        >>> got.tolist() == [left]
        True
        """
    @overload
    def empty(
        self,
        shape: int | tuple[int, ...] | list[int],
        dtype: npt.DTypeLike = "float32",
        device: Literal["cpu"] = "cpu",
    ) -> _New: ...
    @overload
    def empty(
        self,
        shape: int | tuple[int, ...] | list[int],
        dtype: npt.DTypeLike = "float32",
        device: str = "cpu",
    ) -> CudaArray:
        """An array in pool memory, not initialised; given back when its last view is gone.

        device  "cpu"; or "cuda", for memory of this rank's GPU that the node's other ranks can
                address: that of `SHOAL_CUDA_DEVICE`, else the current context's
                (`torch.cuda.set_device`), else local rank modulo GPUs; "cuda:1" says which.
                The first such call loads the CUDA driver. It waits for the ranks of the node that
                use CUDA memory already, and never for the others.
        Raises  OutOfMemory that says what was asked, the limit, and how to raise it.
                With CUDA also MissingLibrary (no driver, no GPU, a build without it), DeviceError,
                and Timeout naming a rank that does not map new memory.

        >>> x = comm.empty((2, 3), "float64")
        >>> x.shape, comm.in_pool(x)
        ((2, 3), True)
        """
    def pool(self) -> _Pool:
        """How much of this rank's pool memory is in use.

        >>> x = comm.empty(1000, "float64")
        >>> comm.pool()["used_bytes"] >= x.nbytes
        True
        """
    def in_pool(self, x: _Array) -> bool:
        """True if x lies in pool memory, which the ranks of the node share.

        >>> comm.in_pool(np.ones(3)), comm.in_pool(comm.empty(3))
        (False, True)
        """
    def holders(self, x: _Array) -> list[int]:
        """Ranks of the job that hold views of x, in order. If none: x is writeable again.

        >>> comm.holders(comm.empty(3))
        []
        """
    def explain(
        self,
        collective: str,
        count: int | None = None,
        dtype: npt.DTypeLike = "float32",
        deterministic: bool = False,
        *,
        nbytes: int | None = None,
    ) -> str:
        """Which algorithm a call of this shape would use, and how the ranks are reached; and why.

        Ends with shared memory in the node, and between nodes the network, its reason, and each
        RDMA device that carries it.

        Units  either `count`, elements of one block, or `nbytes`, of the largest array of the call
               on any rank (rounded down to whole blocks).

        >>> print(comm.explain("all_reduce", 1 << 20))  # doctest: +ELLIPSIS
        all_reduce...
        >>> print(comm.explain("all_gather", nbytes=1 << 20))  # doctest: +ELLIPSIS
        all_gather...
        """
    @property
    def _network(self) -> str: ...
    @property
    def _node_ranks(self) -> int: ...
    def _algorithms(self, collective: str) -> list[str]:
        """The algorithms that can run a collective on these ranks."""
    def _algorithm(self, collective: str, count: int, dtype: npt.DTypeLike = "float32") -> str:
        """The one that explain() names."""
    def _use_algorithm(self, collective: str, algorithm: str | None) -> None:
        """Forces an algorithm on all further calls that are not deterministic; None: choose again.

        For tuners. Called by all ranks alike, between the same collectives, while no other thread
        uses the communicator.
        """
    def _block_count(
        self, collective: str, nbytes: int, dtype: npt.DTypeLike = "float32"
    ) -> int: ...
    def split(self, color: int, key: int = 0) -> Communicator | None:
        """Ranks of one colour form a communicator, ordered by (key, rank). Collective.

        A negative colour joins none and receives None.

        >>> half = comm.split(comm.rank % 2)
        >>> half.size <= comm.size
        True
        """
    def abort(self, reason: str = "") -> None:
        """Ends this communicator on all ranks: whoever waits gets Aborted with this reason."""
    def finalize(self) -> None:
        """Leaves the job in order; no collective follows. The interpreter's end does the same."""

def init(
    rank: int,
    size: int,
    store: str,
    secret: str,
    timeout: float,
    init_timeout: float,
    pool_bytes: int,
    progress_thread: bool,
    network: str,
    ucx_directory: str,
    tuning: str,
) -> Communicator:
    """shoal.init() with nothing left out; see there."""

def enter_numpy_pool(comm: Communicator, smallest: int) -> object:
    """Makes numpy take arrays of `smallest` bytes and more from the pool, in this thread.

    Returns the memory handler before, for leave_numpy_pool(). See shoal.numpy_pool().
    """

def leave_numpy_pool(before: object) -> None:
    """Makes `before` numpy's memory handler again."""

class Store:
    """The rendezvous store that a launcher runs. Any thread."""

    def __init__(
        self,
        bind_host: str,
        port: int,
        ranks: int,
        job: str,
        secret: str,
        launcher_reports_exits: bool = False,
    ) -> None:
        """Serves on one address; port 0 is any free one. Raises BootstrapError.

        `launcher_reports_exits`: report_exit() will be called for each rank that ends, so that a
        lost connection waits 300 ms for it, to be announced with its cause.
        """
    @property
    def port(self) -> int: ...
    def report_exit(self, rank: int, cause: str) -> None:
        """Tells every rank that `rank` has ended, e.g. cause = "killed by signal 9"."""
    def missing(self) -> list[int]:
        """Ranks that have not come yet."""

class _CatalogEntry(TypedDict):
    """An algorithm; `node_memory`: it reads its node's shared memory."""

    collective: str
    algorithm: str
    node_memory: bool
    deterministic: bool
    cost: str
    source: str

def catalog() -> list[_CatalogEntry]:
    """Every algorithm that shoal knows.

    >>> from shoal import _core
    >>> "ring" in {entry["algorithm"] for entry in _core.catalog()}
    True
    """

def plan(
    collective: str,
    algorithm: str,
    ranks: int,
    count: int = 0,
    rank: int | None = None,
    root: int = 0,
    node_ranks: int | None = None,
) -> str:
    """The steps of an algorithm, as text; of one rank, or of all.

    Units   `count` is elements of one block; `node_ranks` is ranks of one node and divides `ranks`.
    Raises  InvalidArgument that lists the names that are known.

    >>> from shoal import _core
    >>> "send" in _core.plan("all_reduce", "ring", ranks=4, count=64)
    True
    """

def tuning_path() -> str:
    """SHOAL_TUNING_FILE, else the file of the user's configuration; "" if neither can be told."""

def merge_tuning(kept: str, name: str, newer: str) -> str:
    """The text of the table `kept` (of the file `name`; may be "") with what `newer` has measured.

    Raises  InvalidArgument: file, line, what is wrong with it, what to try.

    >>> from shoal import _core
    >>> head = "shoal-tuning 1; date today; hosts a, b; network TCP"
    >>> text = _core.merge_tuning("", "", head + "\\nbroadcast 4 2 64 hierarchical 5 binomial 6")
    >>> text.splitlines()[2]
    'broadcast 4 2 64 hierarchical 5.00 binomial 6.00'
    """

def info(ucx_directory: str = "") -> dict[str, Any]:
    """What was built in and what was found; `shoal info` prints it.

    Keys  version, compiler, sanitizers, isa, probes, huge_pages, huge_pages_granted,
          numa, numa_granted, network, ucx: found, path, version, transports, verbs, reason;
          and rdma_ports, each: device, port, state, link_layer, netdev, rate, mtu (bytes, 0:
          unknown), numa_node, numa_distance (to a pool made here; 10: the same node, 0:
          unknown), text, and gids: index, address, type, netdev.
    """

def abi_layout() -> dict[str, int]:
    """include/shoal/abi/progress_page.h as compiled: sizes, offsets in bytes, values of names."""

"""CUDA memory between shoal and other libraries: DLPack, the CUDA array interface and streams, with
PyTorch, CuPy, JAX and numba, each where it is installed. On ranks that share a GPU.

    python tests/gpu/interop.py [NAME...]      # of checks; it starts its own ranks
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from typing import Any

import numpy as np
import ranks

import shoal

LIMIT_S = 80.0
RANK, SIZE = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
SUM = float(sum(range(1, SIZE + 1)))
COUNT = 100_000
DELAY_MS = 200

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the other ranks need memory too
os.environ.setdefault("SHOAL_CUDA_DEVICE", "0")  # which is where the others put what they make

comm: Any = None  # a Communicator on each rank


def start() -> str | None:
    global comm
    comm = shoal.init(timeout=15)
    comm.empty(1, device="cuda")
    comm.barrier()
    return None


def library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ranks.Skip(f"no {name}: {error}") from error


def cuda_torch() -> Any:
    torch = library("torch")
    if not torch.cuda.is_available():
        raise ranks.Skip(f"torch {torch.__version__} finds no GPU")
    return torch


class Interface:
    """What another library may give: the CUDA array interface and nothing else."""

    def __init__(self, array: Any) -> None:
        self.array = array

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        result: dict[str, Any] = self.array.__cuda_array_interface__
        return result


def made() -> Any:
    """Pool memory; each element is this rank's number, from 1."""
    x = comm.empty(COUNT, "float32", device="cuda")
    x.copy_from_host(np.full(COUNT, RANK + 1, "float32"))
    return x


def address(x: Any) -> int:
    return int(x.__cuda_array_interface__["data"][0])


def require(x: Any, wanted: float) -> None:
    host = np.asarray(x)
    wrong = np.flatnonzero(host != wanted)
    assert wrong.size == 0, (
        f"{wrong.size} elements are not {wanted}: {host[wrong[:3]]} at {wrong[:3]}"
    )


# --- PyTorch -----------------------------------------------------------------------------------


def torch_shares_our_memory() -> str:
    torch = cuda_torch()
    x = made()
    t = torch.from_dlpack(x)
    assert t.data_ptr() == address(x) and t.is_cuda
    stream = torch.cuda.current_stream()
    t.mul_(2)
    comm.all_reduce(x, stream=stream)
    t.add_(1)
    require(t.cpu(), 2 * SUM + 1)
    del x  # the tensor keeps the memory
    t.fill_(RANK + 1.0)
    comm.all_reduce(t, stream=stream)
    require(t.cpu(), SUM)
    b = torch.from_dlpack(comm.empty(COUNT, "bfloat16", device="cuda"))
    b.fill_(RANK + 1.0)
    comm.all_reduce(b, stream=stream)
    assert b.dtype == torch.bfloat16
    require(b.float().cpu(), SUM)
    return f"torch {torch.__version__}: from_dlpack, the same address; bfloat16 too"


def torch_tensors_and_streams() -> str:
    """A late stream: the call returns at once, and what reads on the stream sees the sum."""
    torch = cuda_torch()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        t = torch.zeros(COUNT, device="cuda")
        out = torch.zeros(SIZE, COUNT, device="cuda")
        comm.all_reduce(t, stream=stream)  # the first calls make what streams use
        comm.all_gather(t, out=out, stream=stream)
        cycles = ranks.cycles_of(torch, DELAY_MS)
        stream.synchronize()
        comm.barrier()
        begin = time.monotonic()
        torch.cuda._sleep(cycles)
        t.fill_(RANK + 1.0)
        comm.all_reduce(t, stream=stream)
        comm.all_gather(t, out=out, stream=stream)
        ranks.at_once(begin, DELAY_MS)
        require((out * 2).cpu(), 2 * SUM)
    ranks.raises(
        shoal.InvalidArgument, lambda: comm.all_reduce(out.t(), stream=stream), "C-contiguous"
    )
    return "not from the pool: in place and out= on a stream that is late"


def a_consumer_on_another_stream() -> str:
    """from_dlpack() on a stream comes after the operation that another stream has."""
    torch = cuda_torch()
    producer, consumer = torch.cuda.Stream(), torch.cuda.Stream()
    x = made()
    comm.all_reduce(x, stream=producer)
    cycles = ranks.cycles_of(torch, DELAY_MS)
    torch.cuda.synchronize()
    comm.barrier()
    with torch.cuda.stream(producer):
        torch.cuda._sleep(cycles)
    comm.all_reduce(x, stream=producer)
    with torch.cuda.stream(consumer):
        t = torch.from_dlpack(x) * 1
        require(t.cpu(), SUM * SIZE)
    return "saw what the producer's stream wrote"


def messages_of_torch_tensors() -> str:
    torch = cuda_torch()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        t = torch.full((COUNT,), RANK + 1.0, device="cuda")
        got = torch.zeros(COUNT, device="cuda")
        after, ahead = (RANK + 1) % SIZE, (RANK - 1) % SIZE
        comm.batch([("send", t, after, 0), ("recv", got, ahead, 0)], stream=stream)
        require(got.cpu(), ahead + 1)
    return "a batch on a stream"


# --- CuPy --------------------------------------------------------------------------------------


def cupy_shares_our_memory() -> str:
    cupy = library("cupy")
    x = made()
    by_dlpack, by_interface = cupy.from_dlpack(x), cupy.asarray(x)
    assert by_dlpack.data.ptr == address(x) == by_interface.data.ptr
    by_dlpack *= 2
    cupy.cuda.get_current_stream().synchronize()
    comm.all_reduce(x)
    require(cupy.asnumpy(by_interface), 2 * SUM)
    return f"CuPy {cupy.__version__}: from_dlpack and asarray, the same address"


def cupy_arrays_and_streams() -> str:
    cupy = library("cupy")
    for stream in (cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream()):
        with stream:
            x = cupy.full(COUNT, RANK + 1, dtype=cupy.float32)
            for _ in range(50):
                x = x * 1  # the last of them is not there yet when the call is made
            assert comm.all_reduce(x, stream=stream) is x
            out = cupy.zeros((SIZE, COUNT), dtype=cupy.float32)
            comm.all_gather(x, out=out, stream=stream)
            require(cupy.asnumpy(out + 1, stream=stream), SUM + 1)
            y = cupy.full(COUNT, RANK + 1, dtype=cupy.int64)
            comm.all_reduce(Interface(y), op="max", stream=stream)
            require(cupy.asnumpy(y, stream=stream), SIZE)
    x = cupy.full(COUNT, RANK + 1, dtype=cupy.float64)
    comm.all_reduce(x)  # the legacy default stream, CuPy's own as long as none is chosen
    require(cupy.asnumpy(x), SUM)
    return "arguments by DLPack and by the CUDA array interface, on their streams"


# --- JAX ---------------------------------------------------------------------------------------


def on_gpu(jax: Any) -> Any:
    devices = [device for device in jax.devices() if device.platform in ("gpu", "cuda")]
    if not devices:
        raise ranks.Skip(f"jax {jax.__version__} finds no GPU: {jax.devices()}")
    return devices[0]


def jax_arrays_are_inputs() -> str:
    """They cannot be written: results go to pool memory, which JAX takes as it is."""
    jax = library("jax")
    on_gpu(jax)
    x = jax.numpy.full(COUNT, RANK + 1, dtype="float32") * 1
    out = comm.empty(COUNT, "float32", device="cuda")
    comm.all_reduce(x, out=out)
    result = jax.dlpack.from_dlpack(out)
    assert result.unsafe_buffer_pointer() == address(out), "JAX has copied it"
    require(result + 1, SUM + 1)
    require(x, RANK + 1)
    rows = jax.numpy.ones((SIZE, 1000), dtype="bfloat16") * (RANK + 1)
    part = comm.empty(1000, "bfloat16", device="cuda")
    comm.reduce_scatter(rows, out=part)
    require(jax.dlpack.from_dlpack(part).astype("float32"), SUM)
    whole = jax.dlpack.from_dlpack(comm.all_gather(x))
    assert whole.size == SIZE * COUNT
    for rank in range(SIZE):
        require(whole[rank * COUNT : (rank + 1) * COUNT], rank + 1)
    return f"jax {jax.__version__}: in by DLPack, out in pool memory, which JAX shares"


def jax_arrays_are_not_written() -> str:
    jax = library("jax")
    on_gpu(jax)
    x = jax.numpy.full(COUNT, RANK + 1, dtype="float32") * 1
    ranks.raises(shoal.InvalidArgument, lambda: comm.all_reduce(x), "read-only", "out=")
    ranks.raises(shoal.InvalidArgument, lambda: comm.all_reduce(made(), out=x), "read-only")
    require(x, RANK + 1)
    return "in place is refused, and the text says what to do"


# --- numba -------------------------------------------------------------------------------------


def numba_arrays() -> str:
    cuda = library("numba.cuda")
    if not cuda.is_available():
        raise ranks.Skip("numba.cuda finds no GPU")
    x = made()
    theirs = cuda.as_cuda_array(x)
    assert theirs.device_ctypes_pointer.value == address(x)
    comm.all_reduce(x)
    require(theirs.copy_to_host(), SUM)
    stream = cuda.stream()
    y = cuda.to_device(np.full(COUNT, RANK + 1, "float32"), stream=stream)
    comm.all_reduce(y, stream=int(getattr(stream.handle, "value", stream.handle)))
    require(y.copy_to_host(stream=stream), SUM)
    return "as_cuda_array, device arrays, streams"


CHECKS = [
    ranks.Check(torch_shares_our_memory),
    ranks.Check(torch_tensors_and_streams),
    ranks.Check(a_consumer_on_another_stream),
    ranks.Check(messages_of_torch_tensors),
    ranks.Check(cupy_shares_our_memory),
    ranks.Check(cupy_arrays_and_streams),
    ranks.Check(jax_arrays_are_inputs),
    ranks.Check(jax_arrays_are_not_written),
    ranks.Check(numba_arrays),
]

if __name__ == "__main__":
    sys.exit(ranks.main(CHECKS, start, LIMIT_S))

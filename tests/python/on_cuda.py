"""What tests of CUDA memory between processes share: the stand-in driver (tests/fake_cuda), and
parts of programs for it. With SHOAL_TEST_GPU=1 they run over the machine's own driver."""

from __future__ import annotations

import os

import pytest

from tests.python.conftest import CUDA_DRIVER, CUDA_KERNELS

ON_GPU = os.environ.get("SHOAL_TEST_GPU") == "1"

needs_driver = pytest.mark.skipif(
    not ON_GPU and not (CUDA_DRIVER.exists() and CUDA_KERNELS.exists()),
    reason=f"no {CUDA_DRIVER} or its kernels: SHOAL_TESTS=ON, where cuda.h and nvcc are",
)

SETTINGS = {
    "SHOAL_CUDA_DRIVER": "libcuda.so.1" if ON_GPU else str(CUDA_DRIVER),
    "FAKE_CUDA_KERNELS": str(CUDA_KERNELS),
    "SHOAL_CUDA_DEVICE": "0",
}

SETUP = """
import ctypes, time
driver = ctypes.CDLL(os.environ["SHOAL_CUDA_DRIVER"])
assert driver.cuInit(0) == 0

def cuda(name, *arguments):
    code = getattr(driver, name)(*arguments)
    assert code == 0, (name, code)

def on_device(comm, array):
    made = comm.empty(array.shape, array.dtype, device="cuda")
    made.copy_from_host(array)
    return made

class Stream:
    \"\"\"A handle, as torch has it.\"\"\"
    def __init__(self):
        handle = ctypes.c_void_p()
        context = ctypes.c_void_p()
        cuda("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        cuda("cuCtxPushCurrent_v2", context)
        cuda("cuStreamCreate", ctypes.byref(handle), 1)
        self.cuda_stream = handle.value
    def synchronize(self):
        cuda("cuStreamSynchronize", ctypes.c_void_p(self.cuda_stream))

comm = shoal.init(timeout=20)
r, p = comm.rank, comm.size
"""

# Rank 1 is killed; the others have STREAMS streams that wait for it.
KILL_9 = """
import signal
streams = [Stream() for _ in range(STREAMS)]
x = on_device(comm, np.ones(1000, "float32"))
comm.all_reduce(x, stream=streams[0])
streams[0].synchronize()
assert x.copy_to_host()[0] == p
comm.barrier()
if r == 1:
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)
works = [comm.all_reduce(x, stream=s, async_op=True) for s in streams]
for work in works:
    try:
        work.wait()
        raise SystemExit("no error")
    except shoal.PeerFailed as error:
        seen = time.monotonic()
        assert "rank 1" in str(error) and "killed by signal 9 during all_reduce #" in str(
            error), error
for s in streams:
    s.synchronize()
assert time.monotonic() - seen < 0.1, "streams were let go late"
try:
    comm.all_reduce(x, stream=streams[0])
    raise SystemExit("no error")
except shoal.PeerFailed:
    pass
assert x.copy_to_host()[0] == p, "written after the error"
print("named", flush=True)
"""

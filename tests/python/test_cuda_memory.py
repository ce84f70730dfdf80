"""CUDA memory in Python, over the stand-in driver: its "device" memory is the host's.

So a test can look at it by address.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
from conftest import CAUGHT, CUDA_DRIVER, Runner

import shoal

# Where there is a stand-in there was a cuda.h, and then the package must have the module.
pytestmark = pytest.mark.skipif(
    not CUDA_DRIVER.exists()
    and not pathlib.Path(shoal.__file__).with_name("libshoal_cuda.so").exists(),
    reason="shoal was built without cuda.h",
)

LOOK = (
    CAUGHT
    + """
    import ctypes

    def look(x, count=16):
        address = x.__cuda_array_interface__["data"][0]
        return bytes((ctypes.c_char * count).from_address(address))
"""
)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    assert CUDA_DRIVER.exists(), f"{CUDA_DRIVER} is built with the C++ tests (SHOAL_TESTS=ON)"
    monkeypatch.setenv("SHOAL_CUDA_DRIVER", str(CUDA_DRIVER))
    return monkeypatch


# A job that does not ask for CUDA memory must not pay for it; the second half shows that the
# first one could fail.
def test_nothing_is_loaded_before_it_is_asked_for(
    job: Runner, stand_in: pytest.MonkeyPatch
) -> None:
    job(
        """
        def loaded():
            names = ("libshoal_cuda.so", "libcuda_fake.so", "libcuda.so")
            return [n for n in names if any(n in line for line in open("/proc/self/maps"))]

        comm = shoal.init(timeout=20)
        x = comm.empty(1000)
        x[:] = 1
        comm.all_reduce(x)
        threads = len(os.listdir("/proc/self/task"))
        assert loaded() == [], loaded()
        comm.empty(1000, device="cuda")
        assert loaded() == ["libshoal_cuda.so", "libcuda_fake.so"], loaded()
        assert len(os.listdir("/proc/self/task")) > threads
        """
    )


def test_arrays_go_to_the_device_and_back(job: Runner, stand_in: pytest.MonkeyPatch) -> None:
    job(
        LOOK
        + """
    comm = shoal.init(timeout=20)
    for dtype in ("float32", "float64", "int8", "uint16", "int64", "float8_e5m2", "bool"):
        x = comm.empty((3, 5), dtype, device="cuda")
        a = (np.arange(15) % 2 + comm.rank).reshape(3, 5).astype(dtype)
        x.copy_from_host(a)
        b = x.copy_to_host()
        assert b.dtype == a.dtype and (b == a).all()
        assert (x.shape, x.ndim, x.nbytes, x.dtype) == (a.shape, 2, a.nbytes, a.dtype)
        assert look(x, a.nbytes) == a.tobytes()
    assert comm.empty(0, device="cuda").copy_to_host().shape == (0,)
    assert comm.empty((), device="cuda").copy_to_host().shape == ()
    text = caught(lambda: x.copy_from_host(np.zeros((5, 3), "bool")), shoal.InvalidArgument)
    assert "(5, 3)" in text and "(3, 5)" in text, text
    assert comm.empty(3, device="cuda:%d" % (comm.rank % 2)).device == repr(x).split('"')[1]
    comm.barrier()
    """
    )


def test_other_libraries_see_the_same_memory(job: Runner, stand_in: pytest.MonkeyPatch) -> None:
    job(
        LOOK
        + """
    class Tensor(ctypes.Structure):
        _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32),
                    ("device", ctypes.c_int32), ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8),
                    ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
                    ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.c_void_p),
                    ("offset", ctypes.c_uint64)]

    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]

    comm = shoal.init(timeout=20)
    for dtype, code in (
        ("int32", 0), ("uint8", 1), ("float16", 2), ("bfloat16", 4), ("bool", 6),
        ("float8_e4m3fn", 10), ("float8_e5m2", 12),
    ):
        x = comm.empty((4, 7), dtype, device="cuda")
        face = x.__cuda_array_interface__
        assert face["shape"] == (4, 7) and face["typestr"] == np.dtype(dtype).str
        assert (face["version"], face["strides"], face["stream"]) == (3, None, 1)
        for stream in (None, 1, 2, -1):
            capsule = x.__dlpack__(stream=stream, max_version=(1, 0))
            t = Tensor.from_address(get(capsule, b"dltensor"))
            assert t.data == face["data"][0] and t.offset == 0 and t.strides is None
            assert (t.device_type, t.device) == x.__dlpack_device__() == (2, comm.rank % 2)
            assert (t.code, t.bits, t.lanes) == (code, 8 * x.dtype.itemsize, 1)
            assert t.shape[:2] == [4, 7] and t.ndim == 2
    caught(lambda: x.__dlpack__(stream=0), shoal.InvalidArgument)
    caught(lambda: x.__dlpack__(copy=True), BufferError)
    caught(lambda: x.__dlpack__(dl_device=(1, 0)), BufferError)

    class Torch: cuda_stream = 1
    class Cupy: ptr = 1
    class Nvidia:
        def __cuda_stream__(self): return (0, 1)
    for stream in (1, Torch(), Cupy(), Nvidia()):
        x.record_stream(stream)
    assert "cuda_stream" in caught(lambda: x.record_stream("1"), shoal.InvalidArgument)
    comm.barrier()
    """
    )


def test_memory_goes_with_its_last_holder(job: Runner, stand_in: pytest.MonkeyPatch) -> None:
    stand_in.setenv("SHOAL_CUDA_POOL_BYTES", str(32 << 20))
    job(
        LOOK
        + """
    comm = shoal.init(timeout=20)
    x = comm.empty(20 << 20, "uint8", device="cuda")
    capsule = x.__dlpack__()
    address = look(x) and x.__cuda_array_interface__["data"][0]
    del x
    again = lambda: comm.empty(20 << 20, "uint8", device="cuda")
    text = caught(again, shoal.OutOfMemory)
    for part in ("asked 20.0 MiB", "limit 32.0 MiB", "are free", "SHOAL_CUDA_POOL_BYTES"):
        assert part in text, text
    del capsule
    x = again()  # the stream it was shared with has let go, or is waited for
    assert x.__cuda_array_interface__["data"][0] == address
    y = comm.empty(1, device="cuda")
    del comm  # memory outlives the communicator
    y.copy_from_host(np.ones(1, "float32"))
    assert y.copy_to_host().tolist() == [1]
    """,
        ranks=1,
    )


def test_what_is_missing_is_said_and_harms_nobody(
    job: Runner, stand_in: pytest.MonkeyPatch
) -> None:
    stand_in.setenv("SHOAL_CUDA_DRIVER", "/nowhere/libcuda.so.1")
    job(
        LOOK
        + f"""
    comm = shoal.init(timeout=20)
    text = caught(lambda: comm.empty(3, device="cuda"), shoal.MissingLibrary)
    assert "no CUDA driver: /nowhere/libcuda.so.1" in text and "SHOAL_CUDA_DRIVER" in text, text
    caught(lambda: comm.empty(3, device="gpu"), shoal.InvalidArgument)
    assert comm.all_reduce(np.ones(2)).tolist() == [2, 2]
    os.environ["SHOAL_CUDA_DRIVER"] = {str(CUDA_DRIVER)!r}  # found now
    text = caught(lambda: comm.empty(3, device="cuda:9"), shoal.InvalidArgument)
    assert "there is no device 9; this process sees 2" in text, text
    assert comm.empty(3, device="cuda:1").device == "cuda:1"
    text = caught(lambda: comm.empty(3, device="cuda:0"), shoal.InvalidArgument)
    assert "on device 1, and device 0 was asked for" in text, text
    comm.barrier()
    """
    )


# Also those that wait for something that has nothing to do with CUDA: rank 1 will never come.
def test_a_lost_device_ends_all_ranks_by_name(job: Runner, stand_in: pytest.MonkeyPatch) -> None:
    job(
        LOOK
        + """
    comm = shoal.init(timeout=30)
    if comm.rank == 1:
        os.environ["FAKE_CUDA_FAIL"] = "stream:3:700"
    x = comm.empty(100, device="cuda")
    if comm.rank == 1:
        comm.barrier()
        text = caught(lambda: [x.copy_to_host() for _ in range(4)], shoal.DeviceError)
        assert "CUDA_ERROR_ILLEGAL_ADDRESS" in text, text
        import time
        time.sleep(2)
        text = caught(comm.barrier, shoal.DeviceError)
    else:  # it may come so early that the first one has not ended here
        text = caught(lambda: [comm.barrier() for _ in range(2)], shoal.DeviceError)
    assert "rank 1 (" in text and "has lost its GPU" in text, text
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in text and "start the job again" in text, text
    """
    )


def test_a_killed_peer_is_not_waited_for(job: Runner, stand_in: pytest.MonkeyPatch) -> None:
    job(
        LOOK
        + """
    import signal
    comm = shoal.init(timeout=30)
    x = comm.empty(100, device="cuda")
    comm.barrier()
    if comm.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    y = comm.empty(40 << 20, "uint8", device="cuda")  # new memory, which rank 1 never maps
    assert "rank 1 (" in caught(lambda: [comm.barrier() for _ in range(2)], shoal.PeerFailed)
    y.copy_from_host(np.full(40 << 20, 3, "uint8"))
    assert look(y) == b"\\3" * 16
    os._exit(0)
    """,
        expect=None,
    )


# The default deadline is half an hour.
def test_waiting_for_a_stopped_peer_can_be_interrupted(
    job: Runner, stand_in: pytest.MonkeyPatch
) -> None:
    job(
        LOOK
        + """
    import glob, signal, threading, time
    comm = shoal.init()
    x = comm.empty(100, device="cuda")
    pid = comm.all_gather(np.array([os.getpid()]))[1]
    if comm.rank == 1:
        comm.barrier()
    else:
        os.kill(pid, signal.SIGSTOP)
        stands = lambda task: open(task + "/stat").read().rpartition(")")[2].split()[0] == "T"
        while not all(map(stands, glob.glob(f"/proc/{pid}/task/*"))):
            time.sleep(0.01)
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        caught(lambda: comm.empty(40 << 20, "uint8", device="cuda"), KeyboardInterrupt)
        os.kill(pid, signal.SIGCONT)
        comm.empty(40 << 20, "uint8", device="cuda")
        comm.barrier()
    """
    )


def test_a_forked_child_touches_nothing(job: Runner, stand_in: pytest.MonkeyPatch) -> None:
    job(
        LOOK
        + """
    comm = shoal.init(timeout=20)
    x = comm.empty(100, device="cuda")
    x.copy_from_host(np.ones(100, "float32"))
    pid = os.fork()
    if pid == 0:
        caught(lambda: comm.empty(3, device="cuda"), shoal.InvalidArgument)
        del x, comm
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert x.copy_to_host().sum() == 100
    """
    )


def test_info_says_what_there_is(stand_in: pytest.MonkeyPatch) -> None:
    def info() -> str:
        command = [sys.executable, "-m", "shoal.cli", "info"]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=True
        ).stdout

    stand_in.setenv("FAKE_CUDA_BYTES", str(3 << 30))
    text = info()
    assert f"at {CUDA_DRIVER}" in text
    assert "cuda:1: Stand-in device, 3.0 GiB, shared by file descriptors" in text
    stand_in.setenv("FAKE_CUDA_NO_EXPORT", "1")
    assert "shared by legacy IPC" in info()
    stand_in.setenv("FAKE_CUDA_DEVICES", "0")
    assert "not found: cuInit: CUDA_ERROR_NO_DEVICE" in info()

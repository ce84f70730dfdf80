"""Collectives on CUDA memory between processes, over the stand-in driver (tests/fake_cuda): streams
wait here, no kernel does. What a GPU makes of them is another matter: docs/gpu.md."""

from __future__ import annotations

import textwrap

import pytest

from tests.python.conftest import Result, Runner
from tests.python.on_cuda import KILL_9, SETTINGS, SETUP, needs_driver

pytestmark = needs_driver


@pytest.fixture
def cuda_job(job: Runner, monkeypatch: pytest.MonkeyPatch) -> Runner:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)

    def run(source: str, ranks: int = 2, expect: int | None = 0) -> Result:
        return job(SETUP + textwrap.dedent(source), ranks=ranks, expect=expect)

    return run


def test_every_collective_has_the_bits_of_the_host(cuda_job: Runner) -> None:
    cuda_job(
        """
        s = Stream()
        rng = np.random.default_rng(r)
        comm.empty(0, "float8_e5m2")  # numpy knows the name from now on
        for dtype in ("float32", "float16", "float8_e4m3fn", "float8_e5m2", "int8", "uint64"):
            for n in (1, 17, 3000):
                rows = rng.integers(-50, 50, size=(p, n)).astype(dtype)
                row = np.ascontiguousarray(rows[0])
                calls = {
                    "all_reduce": (row, {"op": "prod"}),
                    "reduce": (row, {"root": 1, "op": "min"}),
                    "broadcast": (row, {"root": 1}),
                    "all_gather": (row, {}),
                    "reduce_scatter": (rows, {"op": "sum"}),
                    "all_to_all": (rows, {}),
                    "gather": (row, {"root": 1}),
                }
                for name, (x, options) in calls.items():
                    want = getattr(comm, name)(x.copy(), **options)
                    got = getattr(comm, name)(on_device(comm, x), stream=s, **options)
                    s.synchronize()
                    assert (got is None) == (want is None), name
                    if got is not None:
                        assert isinstance(got, shoal.CudaArray) and got.shape == want.shape, name
                        assert got.copy_to_host().tobytes() == want.tobytes(), (name, dtype, n)
                out = comm.empty((1, n), dtype, device="cuda")
                if r == 1:
                    comm.scatter(on_device(comm, rows), root=1, out=out, stream=s)
                    want = comm.scatter(rows, root=1)
                else:
                    comm.scatter(None, root=1, out=out, stream=s)
                    want = comm.scatter(None, root=1, out=np.empty((1, n), dtype))
                s.synchronize()
                assert out.copy_to_host().tobytes() == want.tobytes(), ("scatter", dtype, n)
        comm.barrier(stream=s)
        s.synchronize()
        """,
        ranks=3,
    )


def test_calls_return_at_once_and_keep_their_order(cuda_job: Runner) -> None:
    cuda_job(
        """
        s, t = Stream(), Stream()
        x = on_device(comm, np.ones(1000, "int32"))
        if r == 1:
            time.sleep(0.5)
        begin = time.monotonic()
        for i in range(20):
            assert comm.all_reduce(x, stream=s if i % 3 else t.cuda_stream) is x
        if r == 0:
            assert time.monotonic() - begin < 0.4, "waited for rank 1"
        work = comm.all_reduce(x, stream=s, async_op=True)
        assert work.wait() is x
        assert x.copy_to_host().tolist() == [2**21] * 1000
        # Without a stream the call waits.
        assert comm.all_reduce(x, op="max").copy_to_host()[0] == 2**21
        """
    )


def test_memory_of_other_libraries(cuda_job: Runner) -> None:
    cuda_job(
        """
        s = Stream()

        class Foreign:
            \"\"\"Device memory that is not from the pool, by the CUDA array interface.\"\"\"
            def __init__(self, array):
                self.address = ctypes.c_uint64()
                self.like = array
                cuda("cuMemAlloc_v2", ctypes.byref(self.address), ctypes.c_size_t(array.nbytes))
                cuda("cuMemcpyHtoDAsync_v2", self.address, array.ctypes.data_as(ctypes.c_void_p),
                     ctypes.c_size_t(array.nbytes), ctypes.c_void_p(s.cuda_stream))
                s.synchronize()
                self.__cuda_array_interface__ = {
                    "shape": array.shape, "typestr": array.dtype.str, "version": 3,
                    "data": (self.address.value, False), "strides": None, "stream": None,
                }
            def get(self):
                array = np.empty_like(self.like)
                cuda("cuMemcpyDtoHAsync_v2", array.ctypes.data_as(ctypes.c_void_p), self.address,
                     ctypes.c_size_t(array.nbytes), ctypes.c_void_p(s.cuda_stream))
                s.synchronize()
                return array

        class ByDlpack:
            def __init__(self, array):
                self.array = array
                self.streams = []
            def __dlpack_device__(self):
                return self.array.__dlpack_device__()
            def __dlpack__(self, stream=None, **options):
                self.streams.append(stream)
                return self.array.__dlpack__(stream=stream, **options)

        x = Foreign(np.arange(100, dtype="float32") + r)
        assert comm.all_reduce(x, stream=s) is x
        assert x.get().tolist() == [2.0 * i + 1 for i in range(100)]
        y = ByDlpack(on_device(comm, np.full(10, r + 1, "int16")))
        assert comm.all_reduce(y, stream=s) is y
        s.synchronize()
        assert y.streams == [s.cuda_stream]
        assert y.array.copy_to_host().tolist() == [3] * 10

        # What is read-only is an input; JAX's arrays say so by the interface, beside DLPack.
        class Immutable(ByDlpack):
            @property
            def __cuda_array_interface__(self):
                interface = self.array.__cuda_array_interface__
                return interface | {"data": (interface["data"][0], True)}

        class ImmutableInterface:
            def __init__(self, array):
                self.__cuda_array_interface__ = Immutable(array).__cuda_array_interface__

        for kind in (Immutable, ImmutableInterface):
            ours = on_device(comm, np.full(10, r + 1, "int16"))
            out = comm.empty(10, "int16", "cuda")
            z = kind(ours)
            comm.all_reduce(z, out=out, stream=s)
            s.synchronize()
            assert out.copy_to_host().tolist() == [3] * 10
            for call in (lambda: comm.all_reduce(z, stream=s),
                         lambda: comm.all_reduce(out, out=z, stream=s)):
                try:
                    call()
                    raise SystemExit("no error")
                except shoal.InvalidArgument as error:
                    assert "the array is read-only and would be written" in str(error), error
            assert ours.copy_to_host().tolist() == [r + 1] * 10
        """
    )


def test_wrong_arguments_say_what_to_do(cuda_job: Runner) -> None:
    cuda_job(
        """
        s = Stream()
        x = comm.empty(4, device="cuda")
        host = np.zeros(4, "float32")
        for call, words in (
            (lambda: comm.all_reduce(host, stream=s), "x is not CUDA memory"),
            (lambda: comm.all_reduce(x, out=host), "must both be CUDA memory"),
            (lambda: comm.all_reduce(x, stream="s"), "expected a handle"),
            (lambda: comm.all_reduce(x, op="band"), "band of float32 is not defined"),
        ):
            try:
                call()
                raise SystemExit(f"no error: {words}")
            except shoal.InvalidArgument as error:
                assert words in str(error), error
        comm.all_reduce(x, stream=s)
        s.synchronize()
        """
    )


def test_host_and_cuda_in_one_call_are_a_mismatch_on_both(cuda_job: Runner) -> None:
    cuda_job(
        """
        s = Stream()
        x = on_device(comm, np.ones(8, "float32"))
        try:
            if r == 0:
                comm.all_reduce(x, stream=s, async_op=True).wait()
            else:
                comm.all_reduce(np.ones(8, "float32"))
            raise SystemExit("no error")
        except shoal.MismatchError as error:
            assert "rank 0 called all_reduce(count 8, float32, sum, CUDA), rank 1 called" in str(
                error), error
        assert x.copy_to_host().tolist() == [1.0] * 8
        """
    )


@pytest.mark.parametrize("streams", [1, 2])
def test_kill_9_is_named_and_every_wait_released(cuda_job: Runner, streams: int) -> None:
    result = cuda_job(f"STREAMS = {streams}\n" + KILL_9, ranks=3, expect=None)
    assert result.lines(0) == ["named"], result.out + result.err
    assert result.lines(2) == ["named"], result.out + result.err


def test_groups_and_the_progress_page(cuda_job: Runner) -> None:
    cuda_job(
        """
        import shoal.pages
        s = Stream()
        half = comm.split(r % 2)
        x = on_device(comm, np.full(64, 10**r, "int64"))
        half.all_reduce(x, stream=s)
        comm.all_reduce(x, stream=s)
        s.synchronize()
        assert x.copy_to_host()[0] == 2 * 1111
        comm.barrier()
        if r == 0:
            time.sleep(1.0)
        work = comm.reduce(x, root=2, op="max", stream=s, async_op=True)
        if r == 3:
            time.sleep(0.3)
            page = next(page for page in shoal.pages.read_all()
                        if page.job == comm.job and page.rank == 3)
            shown = [o for o in page.operations if o.in_flight]
            assert [(o.collective, o.state, o.awaited_peer) for o in shown] == [
                ("reduce", "running", 0)], shown
        work.wait()
        """,
        ranks=4,
    )

"""CUDA memory between nodes, and messages, over the stand-in driver (tests/fake_cuda). The nodes
are network namespaces."""

from __future__ import annotations

import textwrap

import pytest

from tests.python.conftest import Result, Runner, TwoHosts
from tests.python.on_cuda import KILL_9, SETTINGS, SETUP, needs_driver

pytestmark = needs_driver


@pytest.fixture
def cuda_job(job: Runner, two_hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Two nodes, so many ranks on each; `nodes=1`: all of them on one."""
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)

    def run(source: str, each: int = 2, nodes: int = 2, expect: int | None = 0) -> Result:
        program = SETUP + textwrap.dedent(source)
        if nodes == 1:
            return job(program, ranks=each, expect=expect)
        options = two_hosts.options(each, "tcp")
        for name, value in SETTINGS.items():
            options = (*options, "--env", f"{name}={value}")
        return job(program, expect=expect, launcher=two_hosts.launcher, options=options)

    return run


def test_every_collective_has_the_bits_of_the_host(cuda_job: Runner) -> None:
    cuda_job(
        """
        assert comm.nodes == 2
        s = Stream()
        rng = np.random.default_rng(r)
        for dtype in ("float32", "float16", "int8"):
            for n in (1, 3000, 200_000):
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
                mine = on_device(comm, rows) if r == 1 else None
                comm.scatter(mine, root=1, out=out, stream=s)
                want = comm.scatter(rows if r == 1 else None, root=1, out=np.empty((1, n), dtype))
                s.synchronize()
                assert out.copy_to_host().tobytes() == want.tobytes(), ("scatter", dtype, n)
        comm.barrier(stream=s)
        s.synchronize()
        """
    )


def test_calls_return_at_once_and_keep_their_order(cuda_job: Runner) -> None:
    cuda_job(
        """
        s, t = Stream(), Stream()
        x = on_device(comm, np.ones(1000, "int32"))
        comm.all_reduce(x, op="max", stream=s)
        s.synchronize()
        comm.barrier()
        if r == 1:
            time.sleep(0.5)
        begin = time.monotonic()
        for i in range(10):
            assert comm.all_reduce(x, stream=s if i % 3 else t.cuda_stream) is x
        if r == 0:
            assert time.monotonic() - begin < 0.4, "waited for rank 1"
        work = comm.all_reduce(x, stream=s, async_op=True)
        assert work.wait() is x
        assert x.copy_to_host().tolist() == [4**11] * 1000
        # Without a stream the call waits.
        assert comm.all_reduce(x, op="max").copy_to_host()[0] == 4**11
        # Host calls of the same communicator come between.
        assert comm.all_reduce(np.ones(3))[0] == 4
        # A forked child leaves all of it to the parent.
        child = os.fork()
        if child == 0:
            del x, work, comm
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert comm.all_reduce(x, op="max").copy_to_host()[0] == 4**11
        """
    )


def test_kill_9_is_named_and_every_wait_released(cuda_job: Runner) -> None:
    result = cuda_job("STREAMS = 2\n" + KILL_9, expect=137)
    assert result.out.count("named") == 3, result.out + result.err


def test_the_progress_page_shows_what_the_host_does(cuda_job: Runner) -> None:
    cuda_job(
        """
        import shoal.pages
        s = Stream()
        x = on_device(comm, np.ones(64, "int64"))
        comm.all_reduce(x, stream=s)
        s.synchronize()
        comm.barrier()
        if r == 0:
            time.sleep(1.0)
        work = comm.reduce(x, root=0, op="max", stream=s, async_op=True)
        if r == 1:
            time.sleep(0.3)
            page = next(page for page in shoal.pages.read_all()
                        if page.job == comm.job and page.rank == 1)
            shown = [o for o in page.operations if o.in_flight]
            assert [(o.collective, o.awaited_peer) for o in shown] == [("reduce", 0)], shown
        work.wait()
        """
    )


MESSAGES = """
    s = Stream()
    right, left = (r + 1) % p, (r - 1) % p
    x, y = on_device(comm, np.full(30_000, r, "int32")), comm.empty(30_000, "int32", device="cuda")
    for i in range(3):
        got = comm.batch([("send", x, right, 0), ("recv", y, left, 0)], stream=s)
        assert got[0] is x and got[1] is y
    s.synchronize()
    assert y.copy_to_host().tolist() == [left] * 30_000
    # To memory of the host and from it, with a stream and without.
    host = np.zeros(30_000, "int32")
    if r % 2 == 0:
        assert comm.send(x, right, tag=1, stream=s) is x
        work = comm.recv(y, tag=2, stream=s, async_op=True)
        assert work.wait() is y and work.source == right
        assert y.copy_to_host()[0] == 100 + right
    else:
        assert comm.recv(host, source=left, tag=1)[0] == left
        comm.send(np.full(30_000, 100 + r, "int32"), left, tag=2)
    if r == 0:
        assert comm.recv(y, source=1, tag=3).copy_to_host()[0] == 1
    elif r == 1:
        comm.send(x, 0, tag=3)
    for call, words in (
        (lambda: comm.send(host, 0, stream=s), "x is not CUDA memory"),
        (lambda: comm.batch([("send", host, 0, 0), ("recv", y, 0, 0)]), "all arrays are CUDA"),
        (lambda: comm.recv(y, source=9), "rank 9 is not in"),
    ):
        try:
            call()
            raise SystemExit(f"no error: {words}")
        except shoal.InvalidArgument as error:
            assert words in str(error), error
    comm.barrier(stream=s)
    s.synchronize()
"""


@pytest.mark.parametrize("nodes", [1, 2])
def test_messages(cuda_job: Runner, nodes: int) -> None:
    cuda_job(MESSAGES, each=2, nodes=nodes)


def test_a_message_of_another_size_ends_the_communicator(cuda_job: Runner) -> None:
    cuda_job(
        """
        s = Stream()
        x = on_device(comm, np.full(10 + r, r, "int32"))
        try:
            if r == 0:
                comm.send(x, 1, stream=s)
                s.synchronize()
                deadline = time.monotonic() + 10
                while time.monotonic() < deadline:
                    comm.send(x, 1, stream=s)
                    time.sleep(0.01)
            else:
                comm.recv(x, source=0, stream=s, async_op=True).wait()
            raise SystemExit("no error")
        except shoal.MismatchError as error:
            assert "recv: rank 0 sent 40 bytes of int32" in str(error), error
        assert x.copy_to_host().tolist() == [r] * (10 + r)
        """,
        each=1,
    )

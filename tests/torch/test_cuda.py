"""CUDA tensors, over the stand-in for CUDA's driver: no GPU has part in this (docs/gpu.md)."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
from conftest import Checker, Launcher, environment, names_of_checks

from tests.python.conftest import (  # two_hosts: a fixture
    BUILD,
    CUDA_DRIVER,
    CUDA_KERNELS,
    TwoHosts,
    two_hosts,  # noqa: F401
)

VARIABLES = {
    "SHOAL_CUDA_DRIVER": str(CUDA_DRIVER),
    "FAKE_CUDA_KERNELS": str(CUDA_KERNELS),
    "TORCH_FAKE_CUDA": str(BUILD / "tests/torch/fake_cuda/libtorch_fake_cuda.so"),
}

pytestmark = pytest.mark.skipif(
    not all(pathlib.Path(path).exists() for path in VARIABLES.values()),
    reason=f"not in {BUILD}: SHOAL_TESTS=ON and SHOAL_TORCH=ON, where cuda.h and nvcc are",
)


@pytest.mark.parametrize("name", names_of_checks("collectives.py"))
def test_collective(check: Checker, name: str) -> None:
    check("cuda_collectives.py", name, 3, VARIABLES)


@pytest.mark.parametrize("name", names_of_checks("cuda_streams.py"))
def test_streams(check: Checker, name: str) -> None:
    check("cuda_streams.py", name, 3, VARIABLES)


def test_a_killed_peer_is_named_and_the_streams_go_on(launch: Launcher) -> None:
    result = launch(
        """
        import signal, time
        import fake_cuda
        dist.init_process_group("shoal")
        x = fake_cuda.on_device(torch.ones(1000))
        dist.all_reduce(x)
        fake_cuda.synchronize()
        dist.barrier()
        if RANK == 1:
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        dist.all_reduce(x)  # nobody waits for it
        work = dist.all_reduce(x, async_op=True)
        work.wait()
        begin = time.monotonic()
        fake_cuda.synchronize()
        assert time.monotonic() - begin < 5, "the stream was not let go"
        while not work.is_completed():
            time.sleep(0.001)
        for call in (lambda: dist.all_reduce(x), work.wait,
                     lambda: dist.all_reduce(x, async_op=True), lambda: dist.barrier()):
            try:
                call()
            except dist.DistBackendError as error:
                assert "rank 1" in str(error) and "PeerFailed" in str(error), error
            else:
                raise AssertionError("no error")
        assert not work.is_success()
        assert "rank 1" in str(work.exception())
        print("ended in order")
        """,
        ranks=3, limit_s=40, expect=None, variables=VARIABLES,
    )  # fmt: skip
    assert result.returncodes == [0, -9, 0], str(result)


def test_a_timeout_names_the_late_rank(launch: Launcher) -> None:
    launch(
        """
        import datetime, time
        import fake_cuda
        import shoal.torch
        dist.init_process_group("shoal", timeout=datetime.timedelta(seconds=2))
        x = fake_cuda.on_device(torch.ones(1000))
        dist.all_reduce(x)
        fake_cuda.synchronize()
        assert shoal.torch.last_operations()[-1]["operation"] == "shoal:all_reduce"
        if RANK == 1:
            time.sleep(4)
        try:
            dist.all_reduce(x)  # of rank 0, nobody waits for this one
            fake_cuda.synchronize()
            dist.all_reduce(x)
        except dist.DistBackendError as error:
            assert "Timeout" in str(error) and "rank 1" in str(error), error
        else:
            raise AssertionError("no error")
        assert shoal.torch.last_operations()[0]["state"] == "completed"
        """,
        limit_s=40, variables=VARIABLES,
    )  # fmt: skip


def test_without_what_cuda_needs_the_host_does_it_and_says_why(launch: Launcher) -> None:
    """shoal finds no driver; torch has one."""
    result = launch(
        """
        import fake_cuda
        import shoal.torch
        x = fake_cuda.on_device(torch.ones(1000))  # the driver is in the process now
        os.environ["SHOAL_CUDA_DRIVER"] = "/nowhere/libcuda.so.1"
        dist.init_process_group("shoal")
        dist.all_reduce(x)
        assert (x.cpu() == 2).all()
        work = dist.all_reduce(x, async_op=True)
        work.wait()
        assert (x.cpu() == 4).all()
        assert shoal.torch.statistics()["copied_through_host"] == 2
        """,
        variables=VARIABLES,
    )
    for output in result.outputs:
        assert output.count("CUDA tensors go through host memory") == 1, output
        assert "/nowhere/libcuda.so.1" in output, output


NODES = """
import faulthandler, os
faulthandler.dump_traceback_later(float(os.environ["SHOAL_TEST_LIMIT_S"]), exit=True)
os.environ["MASTER_ADDR"] = os.environ["ADDRESS"]  # no name service knows the namespaces
import fake_cuda
import torch
import torch.distributed as dist
import shoal.torch
from fake_cuda import on_device

dist.init_process_group("shoal")
rank, size = dist.get_rank(), dist.get_world_size()
assert size == 4
for length in (5, 200_000):
    x = on_device(torch.full((length,), rank + 1.0))
    dist.all_reduce(x)
    assert (x.cpu() == 10).all()
    work = dist.all_reduce(x, async_op=True)
    work.wait()
    assert (x.cpu() == 40).all()
    parts = [on_device(torch.zeros(length)) for _ in range(size)]
    dist.all_gather(parts, on_device(torch.full((length,), float(rank))))
    assert all((part.cpu() == owner).all() for owner, part in enumerate(parts))
    y = on_device(torch.zeros(length))
    for work in dist.batch_isend_irecv([
        dist.P2POp(dist.isend, parts[rank], (rank + 1) % size),
        dist.P2POp(dist.irecv, y, (rank - 1) % size),
    ]):
        work.wait()
    assert (y.cpu() == (rank - 1) % size).all()
dist.barrier()
assert shoal.torch.statistics()["copied_through_host"] == 0
print("rank", rank, "ok", flush=True)
dist.destroy_process_group()
"""


def test_ranks_of_two_nodes(two_hosts: TwoHosts, tmp_path: pathlib.Path) -> None:  # noqa: F811
    program = tmp_path / "program.py"
    program.write_text(NODES)
    done = subprocess.run(
        [*two_hosts.launcher, sys.executable, "-m", "shoal.cli", "run",
         *two_hosts.options(2, "tcp"), sys.executable, str(program)],
        capture_output=True, text=True, timeout=100, check=False,
        env=environment(60, VARIABLES | {"ADDRESS": two_hosts.address_a}),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"rank {rank} ok" in done.stdout for rank in range(4)), done.stdout

"""Imports, launchers, forked workers and compilers."""

from __future__ import annotations

import pathlib
import statistics
import subprocess
import sys

import pytest
from conftest import PREAMBLE, Checker, Launcher, environment, names_of_checks

REGISTER_LIMIT_MS = 5.0  # of `import torch`, which takes seconds; measured here: 0.1


def python(source: str, limit_s: float = 60, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True, text=True, check=False,
        timeout=limit_s, env=environment(limit_s, variables),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_registering_costs_next_to_nothing_and_loads_nothing() -> None:
    """Timed by itself, at its first call. torch loads numpy where it is installed: so what counts
    is which modules come with the call."""
    source = """
import sys, time
import torch, torch.distributed
before = set(sys.modules)
import _shoal_torch
begin = time.perf_counter()
_shoal_torch.register()
print("took", 1000 * (time.perf_counter() - begin))
added = {name.split(".")[0] for name in set(sys.modules) - before}
assert added <= {"_shoal_torch"}, added
assert "shoal" not in sys.modules
assert "shoal" in torch.distributed.Backend.backend_list
_shoal_torch.register()  # again is harmless
"""
    took = [float(python(source, TORCH_DEVICE_BACKEND_AUTOLOAD="0").split()[1]) for _ in range(3)]
    assert statistics.median(took) < REGISTER_LIMIT_MS, took


def test_torch_finds_the_backend_by_itself() -> None:
    """By the entry point: needs an installed package, or its metadata on the path."""
    out = python(
        "import sys, torch\n"
        "import torch.distributed as dist\n"
        "print('shoal' in dist.Backend.backend_list, 'shoal' in sys.modules)"
    )
    assert out.split() == ["True", "False"]


@pytest.mark.parametrize("name", names_of_checks("compiled.py"))
def test_functional_collectives(check: Checker, name: str) -> None:
    check("compiled.py", name, 2)


def test_forked_workers_of_a_data_loader(launch: Launcher) -> None:
    """They have the group's memory but none of its threads, and leave it alone when they end."""
    launch(
        """
        import signal, time, warnings
        warnings.simplefilter("ignore")
        from torch.nn.parallel import DistributedDataParallel
        from torch.utils.data import DataLoader, Dataset
        import shoal.torch

        class Numbers(Dataset):
            def __len__(self):
                return 64
            def __getitem__(self, i):
                return torch.full((1000,), float(i))

        dist.init_process_group("shoal")
        dist.all_reduce(torch.ones(10_000), async_op=True).wait()  # the progress thread runs
        with shoal.torch.pool():
            model = DistributedDataParallel(torch.nn.Linear(1000, 10))
            for epoch in range(2):
                loader = DataLoader(
                    Numbers(), batch_size=8, num_workers=2, multiprocessing_context="fork"
                )
                total = 0.0
                for x in loader:
                    model(x / 64).square().mean().backward()
                    total += float(x[:, 0].sum())
                assert total == 64 * 63 / 2, total
            assert shoal.torch.in_pool(torch.empty(10_000))
            pid = os.fork()
            if pid == 0:  # the pool is the parent's; one of its threads may have held its lock
                os._exit(1 if shoal.torch.in_pool(torch.empty(10_000)) else 0)
            assert os.waitpid(pid, 0)[1] == 0
        # A child that ends with all that runs at exit; faulthandler's timer would keep it from it.
        faulthandler.cancel_dump_traceback_later()
        pid = os.fork()
        if pid == 0:
            raise SystemExit(0)
        for _ in range(200):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                break
            time.sleep(0.1)
        else:
            os.kill(pid, signal.SIGKILL)
        assert ended and status == 0, (ended, status)
        faulthandler.dump_traceback_later(30, exit=True)
        x = torch.ones(10_000)
        dist.all_reduce(x)
        assert (x == SIZE).all()
        dist.destroy_process_group()
        """,
        limit_s=60,
    )


def test_a_program_that_ends_without_leaving(launch: Launcher) -> None:
    """No destroy_process_group, tensors and works alive: it ends in order all the same."""
    result = launch(
        """
        import shoal.torch
        dist.init_process_group("shoal")
        with shoal.torch.pool():
            kept = torch.ones(10_000)
        work = dist.all_reduce(kept, async_op=True)
        work.wait()
        future = dist.all_reduce(torch.ones(3), async_op=True).get_future()
        group = dist.new_group()
        dist.barrier(group)
        """,
        limit_s=40,
    )
    assert "Error" not in str(result) and "rror:" not in str(result), str(result)


def test_a_pool_that_is_full(launch: Launcher) -> None:
    """Memory comes from elsewhere then, and calls go on as ever."""
    launch(
        """
        import shoal.torch
        dist.init_process_group("shoal")
        with shoal.torch.pool():
            tensors = [torch.full((1 << 18,), 1.0) for _ in range(80)]  # 1 MiB each, of 64
        inside = [shoal.torch.in_pool(x) for x in tensors]
        assert any(inside) and not all(inside), inside
        for x in tensors:
            dist.all_reduce(x)
            assert (x == SIZE).all()
        outputs = [torch.empty(20 << 20) for _ in range(SIZE)]  # lists go through the pool
        del tensors, x
        dist.all_gather(outputs, torch.full((20 << 20,), float(RANK)))
        for rank, one in enumerate(outputs):
            assert (one == rank).all()
        dist.destroy_process_group()
        """,
        variables={"SHOAL_POOL_BYTES": str(64 << 20)},
    )


def test_shoal_run_starts_torch_programs(tmp_path: pathlib.Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        PREAMBLE.replace('RANK, SIZE = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])', "")
        + "dist.init_process_group('shoal')\n"
        "x = torch.full((1000,), dist.get_rank() + 1.0)\n"
        "dist.all_reduce(x)\n"
        "assert (x == 3).all()\n"
        "assert int(os.environ['LOCAL_RANK']) == dist.get_rank()\n"
        "print('rank', dist.get_rank(), 'of', dist.get_world_size(), 'ok', flush=True)\n"
        "dist.destroy_process_group()\n"
    )
    command = [sys.executable, "-m", "shoal.cli", "run", "-n", "2", "--timeout", "60"]
    done = subprocess.run(
        [*command, sys.executable, str(program)],
        capture_output=True, text=True, check=False, timeout=90, env=environment(50, {}),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rank 0 of 2 ok" in done.stdout and "rank 1 of 2 ok" in done.stdout, done.stdout

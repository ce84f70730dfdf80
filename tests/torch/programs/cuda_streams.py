"""Streams: what a call on CUDA tensors returns before, and what comes after it.

A delay that is queued on a stream in front of a call shows who waits: the stream, not the host.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import fake_cuda  # isort: skip  (before torch)

import checks
import torch
import torch.distributed as dist
from checks import RANK, SIZE
from fake_cuda import on_device
from torch.distributed.distributed_c10d import _coalescing_manager
from torch.nn.parallel import DistributedDataParallel

import shoal.torch

SUM = float(sum(range(1, SIZE + 1)))
DELAY_MS = 300


def mine(length: int, factor: float = 1) -> torch.Tensor:
    return on_device(torch.full((length,), float(RANK + 1) * factor))


def is_sum(x: torch.Tensor, factor: float = 1) -> bool:
    """Comes after what is on the current stream."""
    return bool((x.cpu() == SUM * factor).all())


def at_once(call: Callable[[], object]) -> object:
    """Its result; the delay in front of it is not over when it returns. A group's first call may
    wait: it makes what the streams use."""
    dist.all_reduce(mine(3), async_op=True).wait()
    fake_cuda.synchronize()
    dist.barrier()
    fake_cuda.delay(DELAY_MS)
    begin = time.monotonic()
    result = call()
    took_ms = 1000 * (time.monotonic() - begin)
    assert took_ms < DELAY_MS / 2, f"the host waited: {took_ms} ms"
    return result


def copied() -> tuple[int, int]:
    said = shoal.torch.statistics()
    return said["copied_tensors"], said["copied_through_host"]


def check_a_blocking_call_is_queued_on_the_current_stream() -> None:
    x = mine(3000)
    at_once(lambda: dist.all_reduce(x))
    assert not fake_cuda.is_idle()
    assert is_sum(x)
    with fake_cuda.other_stream():
        x = mine(3000)
        at_once(lambda: dist.all_reduce(x))
        assert is_sum(x)


def check_an_asynchronous_call_comes_after_the_current_stream() -> None:
    x = on_device(torch.zeros(3000))
    y = mine(3000)

    def start() -> dist.Work:
        x.copy_(y)  # behind the delay
        return dist.all_reduce(x, async_op=True)

    work = at_once(start)
    assert isinstance(work, dist.Work)
    assert not work.is_completed()
    begin = time.monotonic()
    assert work.wait()  # the stream's, not the host's
    assert time.monotonic() - begin < DELAY_MS / 2000, "wait() kept the host"
    assert is_sum(x)
    while not work.is_completed():
        time.sleep(0.001)
    assert work.is_success() and work.exception() is None


def check_computation_goes_on_beside_an_asynchronous_call() -> None:
    """Rank 1 comes late; the current streams of the others do not wait for it."""
    x, y = mine(3000), mine(3000)
    dist.barrier()
    if RANK == 1:
        time.sleep(DELAY_MS / 1000)
    work = dist.all_reduce(x, async_op=True)
    y.copy_(x if RANK < 0 else y)
    fake_cuda.synchronize()
    assert RANK == 1 or not work.is_completed(), "the current stream has waited"
    with fake_cuda.other_stream():
        work.wait()
        assert is_sum(x)
    work.synchronize()
    assert is_sum(x)


def check_wait_with_a_timeout_is_the_hosts() -> None:
    x = mine(3000)
    work = at_once(lambda: dist.all_reduce(x, async_op=True))
    assert isinstance(work, dist.Work)
    checks.throws(RuntimeError, lambda: work.wait(timedelta(milliseconds=20)), "20 ms")
    assert work.wait(timedelta(seconds=10))
    assert work.is_completed()
    assert is_sum(x)


def check_futures_are_ordered_by_streams() -> None:
    x = mine(3000)
    work = at_once(lambda: dist.all_reduce(x, async_op=True))
    assert isinstance(work, dist.Work)
    future = work.get_future()
    assert future.done()  # for the host
    then = future.then(lambda f: f.value()[0] * 2)  # on a stream of its own
    value = future.wait()[0]
    assert value.data_ptr() == x.data_ptr()
    assert is_sum(value)
    assert is_sum(then.wait(), 2)
    x = mine(10)
    dist.all_reduce(x, async_op=True).get_future().wait()
    assert is_sum(x)


def check_a_work_that_is_dropped() -> None:
    """The tensors live on until the group's stream has done with them."""
    for _ in range(20):
        fake_cuda.delay(2)
        dist.all_reduce(mine(3000), async_op=True)
        outputs = [on_device(torch.zeros(50)) for _ in range(SIZE)]
        dist.all_gather(outputs, mine(50), async_op=True)
        del outputs
    x = mine(3000)
    dist.all_reduce(x)
    assert is_sum(x)


def check_copies_are_of_the_operations_stream() -> None:
    """Rank 1's stream is late: a result that was copied on another one would not be there yet."""
    outputs = [on_device(torch.zeros(1000)) for _ in range(SIZE)]
    x, transposed = mine(1000), on_device(torch.full((30, 40), RANK + 1.0)).t()

    def start() -> list[dist.Work]:
        fake_cuda.delay(100 if RANK == 1 else 0)
        return [
            dist.all_gather(outputs, x, async_op=True),
            dist.all_reduce(transposed, async_op=True),
        ]

    works = at_once(start)
    assert isinstance(works, list)
    for work in works:
        work.wait()
    assert all((y.cpu() == rank + 1).all() for rank, y in enumerate(outputs))
    assert is_sum(transposed)


def check_many_calls_in_flight() -> None:
    tensors = [mine(100, i + 1) for i in range(100)]
    works = [dist.all_reduce(x, async_op=i % 3 > 0) for i, x in enumerate(tensors)]
    for work in reversed(works):
        if work is not None:
            work.wait()
    assert all(is_sum(x, i + 1) for i, x in enumerate(tensors))


def check_nothing_goes_through_the_host() -> None:
    before = copied()
    x, all_of_it = mine(12), on_device(torch.zeros(12 * SIZE))
    dist.all_reduce(x)
    dist.broadcast(x, 1)
    dist.reduce(x, 0)
    dist.all_gather_into_tensor(all_of_it, x)
    dist.reduce_scatter_tensor(x, all_of_it)
    dist.all_to_all_single(all_of_it, all_of_it.clone())
    dist.all_gather(list(all_of_it.chunk(SIZE)), x)  # the parts lie one behind the other
    dist.all_to_all([mine(rank + 2) for rank in range(SIZE)], [mine(RANK + 2) for _ in range(SIZE)])
    assert copied() == before
    dist.all_gather([on_device(torch.zeros(12)) for _ in range(SIZE)], x)
    dist.all_reduce(all_of_it[::2])
    assert copied() == (before[0] + SIZE + 1, before[1]), (before, copied())


def check_single_messages_go_through_the_host_and_are_counted() -> None:
    before = copied()
    x = mine(100)
    if RANK == 0:
        dist.send(x, 1)
    elif RANK == 1:
        dist.recv(x, 0)
        assert bool((x.cpu() == 1).all())
    tensors, through_host = (now - then for now, then in zip(copied(), before, strict=True))
    assert tensors == through_host == (1 if RANK < 2 else 0)


def check_memory_of_the_pool() -> None:
    backend = shoal.torch.backend()
    before = copied()
    for _ in range(3):
        x = backend.allocate_tensor(3000, dtype=torch.float32, device=fake_cuda.DEVICE)
        assert x.device == fake_cuda.DEVICE and x.shape == (3000,)
        x.copy_(mine(3000))
        dist.all_reduce(x)
        dist.all_reduce(x, async_op=True).wait()
        assert is_sum(x, SIZE)
        fake_cuda.delay(5)
        x.copy_(mine(3000))  # still to run when the memory is given back
        del x
    assert copied() == before


def check_calls_of_a_graph() -> None:
    """They have to be on the pool's memory; a replay needs no host."""
    x = shoal.torch.backend().allocate_tensor(100, dtype=torch.float32, device=fake_cuda.DEVICE)
    with fake_cuda.other_stream():
        torch.ops.fake_cuda.begin_capture()
        dist.all_reduce(x)
        dist.all_reduce(x, async_op=True).wait()
        graph = torch.ops.fake_cuda.end_capture()
        for factor in (1, 2, 3):
            x.copy_(mine(100, factor))
            torch.ops.fake_cuda.launch(graph)
            assert is_sum(x, SIZE * factor)


def check_ddp() -> None:
    """Gradients are averaged in buckets, asynchronously, in the hooks of autograd's threads."""
    torch.manual_seed(7)
    alone = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 5))
    together = copy.deepcopy(alone)._apply(on_device)
    ddp = DistributedDataParallel(together, bucket_cap_mb=0.001)
    for step in range(3):
        before = copied()[1]
        inputs = [torch.randn(8, 20) for _ in range(SIZE)]
        for x in inputs:
            (alone(x).square().mean() / SIZE).backward()
        ddp(on_device(inputs[RANK])).square().mean().backward()
        for one, other in zip(alone.parameters(), together.parameters(), strict=True):
            assert one.grad is not None and other.grad is not None and other.grad.is_cuda
            torch.testing.assert_close(other.grad.cpu(), one.grad, msg=f"step {step}")
            one.grad = other.grad = None
        assert copied()[1] == before


def check_coalesced_calls() -> None:
    tensors = [mine(50 * (i + 1)) for i in range(3)]
    with _coalescing_manager(async_ops=True) as manager:
        for x in tensors:
            dist.all_reduce(x)
    manager.wait()
    assert all(is_sum(x) for x in tensors)

    group = dist.distributed_c10d._get_default_group()
    y, z = mine(100), mine(100)
    fake_cuda.delay(50)
    with _coalescing_manager(group, fake_cuda.DEVICE, async_ops=True) as manager:
        group.allreduce([y])
        group.allreduce([z])
    manager.wait()
    assert is_sum(y) and is_sum(z)


def check_host_and_device_in_one_block() -> None:
    group = dist.distributed_c10d._get_default_group()
    x, y = mine(100), torch.zeros(100)
    with _coalescing_manager(group, fake_cuda.DEVICE, async_ops=True) as manager:
        group.allreduce([x])
        group.send([torch.full((100,), RANK + 1.0)], (RANK + 1) % SIZE, 0)
        group.recv([y], (RANK - 1) % SIZE, 0)
    manager.wait()
    assert is_sum(x)
    assert (y == (RANK - 1) % SIZE + 1).all()


def check_a_batch_of_messages_is_one_operation_of_the_stream() -> None:
    """All send first, more than goes ahead of its receive."""
    before = copied()[1]
    after, ahead = (RANK + 1) % SIZE, (RANK - 1) % SIZE
    x, y = mine(300_000), on_device(torch.zeros(600, 500)).t()

    def start() -> list[dist.Work]:
        return dist.batch_isend_irecv(
            [dist.P2POp(dist.isend, x, after), dist.P2POp(dist.irecv, y, ahead)]
        )

    dist.batch_isend_irecv([dist.P2POp(dist.isend, x, after), dist.P2POp(dist.irecv, y, ahead)])
    works = at_once(start)
    assert isinstance(works, list)
    for work in works:
        work.wait()
    assert bool((y.cpu() == ahead + 1).all())
    assert copied()[1] == before


def check_host_and_device_take_turns() -> None:
    for i in range(20):
        x, y = torch.full((100,), float(i)), mine(100)
        dist.all_reduce(x)
        dist.all_reduce(y, async_op=True).wait()
        assert (x == SIZE * i).all() and is_sum(y)


def check_a_barrier_comes_after_the_streams() -> None:
    """Of a group that has had CUDA tensors; the host waits."""
    for asynchronous in (False, True):
        dist.all_reduce(mine(3))
        if RANK == 1:
            fake_cuda.delay(DELAY_MS)
        begin = time.monotonic()
        work = dist.barrier(async_op=asynchronous)
        if work is not None:
            work.wait()
        assert time.monotonic() - begin > DELAY_MS / 2000
        assert fake_cuda.is_idle()


def check_groups_with_another_backend_for_the_cpu() -> None:
    group = dist.new_group(backend="cpu:gloo,cuda:shoal")
    x, y = mine(10), torch.ones(10)
    dist.all_reduce(x, group=group)
    dist.all_reduce(y, group=group)
    assert is_sum(x) and (y == SIZE).all()
    assert shoal.torch.statistics(group)["copied_tensors"] == 0
    dist.destroy_process_group(group)


def check_host_and_cuda_in_one_call_are_a_mismatch() -> None:
    group = dist.new_group()
    x = mine(100).cpu() if RANK == 1 else mine(100)
    checks.throws(
        dist.DistBackendError,
        lambda: dist.all_reduce(x, group=group, async_op=True).wait(timedelta(seconds=10)),
        "Mismatch", "CUDA",
    )  # fmt: skip
    dist.barrier()


def check_one_device_a_rank() -> None:
    x = torch.ops.fake_cuda.to_device(torch.ones(10), 1)
    checks.throws(RuntimeError, lambda: dist.all_reduce(x), "device 0", "device 1")


if __name__ == "__main__":
    checks.run(globals(), sys.argv[1:])

"""Works, futures and coalescing: what a call returns, and when it is over."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import checks
import torch
import torch.distributed as dist
from checks import RANK, SIZE
from torch.distributed.distributed_c10d import _coalescing_manager

import shoal.torch

SUM = float(sum(range(1, SIZE + 1)))


def mine(length: int, factor: float = 1) -> torch.Tensor:
    return torch.full((length,), float(RANK + 1) * factor)


def until(condition: Callable[[], bool], limit_s: float = 10) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "has not come"
        time.sleep(0.001)


def check_many_works_are_waited_for_in_any_order() -> None:
    for length in (1, 3000):
        tensors = [mine(length, i + 1) for i in range(100)]
        works = [dist.all_reduce(x, async_op=True) for x in tensors]
        for work in reversed(works):
            assert work.wait()
            assert work.wait()  # again is harmless
        for i, x in enumerate(tensors):
            assert (x == SUM * (i + 1)).all(), (length, i)


def check_a_work_is_completed_though_nobody_waits() -> None:
    x = mine(5000)
    work = dist.all_reduce(x, async_op=True)
    until(work.is_completed)
    assert work.is_success()
    assert (x == SUM).all()
    # not polled either: the progress thread alone
    x = mine(5000)
    done = threading.Event()
    future = dist.all_reduce(x, async_op=True).get_future()
    future.add_done_callback(lambda _: done.set())
    assert done.wait(10)
    assert (x == SUM).all()


def check_futures_have_the_tensors() -> None:
    x = mine(1000)
    value = dist.all_reduce(x, async_op=True).get_future().wait()
    assert value[0] is x or value[0].data_ptr() == x.data_ptr()
    assert (value[0] == SUM).all()

    x = torch.full((1000,), float(RANK))
    future = dist.broadcast(x, 1, async_op=True).get_future()
    assert (future.then(lambda f: f.value()[0] * 2).then(lambda f: f.value() + 1).wait() == 3).all()

    outputs = [torch.empty(7) for _ in range(SIZE)]
    dist.all_gather(outputs, mine(7), async_op=True).get_future().wait()
    assert [float(one[0]) for one in outputs] == list(range(1, SIZE + 1))

    y = torch.empty(SIZE * 7)
    value = dist.all_gather_into_tensor(y, mine(7), async_op=True).get_future().wait()
    assert value[0].data_ptr() == y.data_ptr() and y[-1] == SIZE

    dist.barrier(async_op=True).get_future().wait()
    futures = [dist.all_reduce(mine(100), async_op=True).get_future() for _ in range(5)]
    assert all((one[0] == SUM).all() for one in torch.futures.wait_all(futures))


def check_a_callback_may_call_collectives_itself() -> None:
    """PowerSGD does so: the next all_reduce starts in the future of the one before."""

    def started(future: torch.futures.Future[list[torch.Tensor]]) -> torch.futures.Future[object]:
        return dist.all_reduce(future.value()[0].clone(), async_op=True).get_future()

    def waited(future: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
        x = future.value()[0].clone()
        dist.all_reduce(x)
        return x

    future = dist.all_reduce(mine(2000), async_op=True).get_future()
    assert (future.then(started).wait().wait()[0] == SUM * SIZE).all()
    future = dist.all_reduce(mine(2000), async_op=True).get_future()
    assert (future.then(waited).wait() == SUM * SIZE).all()


def check_a_callback_may_wait_for_futures() -> None:
    """It runs in the thread that completes operations, and must not keep the others from it."""
    Value = torch.futures.Future[list[torch.Tensor]]

    def next_one(future: Value) -> torch.Tensor:
        x = future.value()[0].clone()
        return dist.all_reduce(x, async_op=True).get_future().wait()[0]

    for length in (1, 20_000):
        future = dist.all_reduce(mine(length), async_op=True).get_future()
        for count in (1, 2, 3):
            future = future.then(next_one if count == 1 else lambda f: next_one(listed(f)))
        assert (future.wait() == SUM * SIZE**3).all()

    # Another one that was begun before, and is over only after the callback has begun.
    first = dist.all_reduce(mine(20_000), async_op=True).get_future()
    if RANK != 0:
        first.wait()
        time.sleep(0.2)
    second = dist.all_reduce(mine(20_000, 2), async_op=True).get_future()
    both = first.then(lambda f: f.value()[0] + second.wait()[0])
    assert (both.wait() == SUM * 3).all()


def listed(future: torch.futures.Future[torch.Tensor]) -> torch.futures.Future[list[torch.Tensor]]:
    result: torch.futures.Future[list[torch.Tensor]] = torch.futures.Future()
    result.set_result([future.value()])
    return result


def check_wait_with_a_timeout() -> None:
    """A wait that ends too early is not the end of the operation."""
    dist.barrier()
    x = mine(1000)
    if RANK == 0:
        work = dist.all_reduce(x, async_op=True)
        before = time.monotonic()
        try:
            work.wait(timedelta(milliseconds=200))
        except dist.DistBackendError as error:
            assert "timed out" in str(error), error
            assert 0.15 < time.monotonic() - before < 5
            late = True
        else:
            late = False
        dist.send(torch.ones(1), 1)
        assert late
        work.wait(timedelta(seconds=10))
    else:
        if RANK == 1:
            dist.recv(torch.empty(1), 0)
        work = dist.all_reduce(x, async_op=True)
        work.wait(timedelta(seconds=10))
    assert (x == SUM).all()


def check_coalesced_collectives() -> None:
    for is_async in (False, True):
        for device in (None, torch.device("cpu")):
            tensors = [mine(n, n) for n in (1, 300, 20_000)]
            with _coalescing_manager(device=device, async_ops=is_async) as manager:
                for x in tensors:
                    dist.all_reduce(x)
            if is_async:
                manager.wait()
            for x in tensors:
                assert (x == SUM * x.numel()).all()

            outputs = [torch.empty(SIZE, n) for n in (3, 5000)]
            with _coalescing_manager(device=device, async_ops=is_async) as manager:
                for y in outputs:
                    dist.all_gather_into_tensor(y.view(-1), mine(y.size(1)))
            if is_async:
                manager.wait()
            for y in outputs:
                assert (y == torch.arange(1.0, SIZE + 1).unsqueeze(1)).all()

            parts = [torch.empty(n) for n in (3, 5000)]
            with _coalescing_manager(device=device, async_ops=is_async) as manager:
                for y in parts:
                    dist.reduce_scatter_tensor(y, mine(SIZE * y.numel()))
            if is_async:
                manager.wait()
            for y in parts:
                assert (y == SUM).all()


def check_coalesced_messages_and_collectives_together() -> None:
    right, left = (RANK + 1) % SIZE, (RANK - 1) % SIZE
    x, got, y = mine(4000), torch.empty(4000), torch.zeros(64, 30).t()
    y += RANK + 1
    with _coalescing_manager(device=torch.device("cpu"), async_ops=True) as manager:
        dist.irecv(got, left)
        dist.isend(mine(4000), right)
        dist.broadcast(x, 0)
        dist.broadcast(y, 1)  # not contiguous: put in its place at the end
    manager.wait()
    assert (got == left + 1).all() and (x == 1).all() and (y == 2).all()


def check_a_call_that_fails_in_a_block_is_not_the_end() -> None:
    """torch leaves the block without ending it."""
    try:
        with _coalescing_manager(device=torch.device("cpu"), async_ops=True):
            dist.broadcast(torch.ones(3), 0)
            dist.all_gather([torch.empty(3) for _ in range(SIZE)], torch.ones(4))
    except RuntimeError as error:
        assert "elements" in str(error), error
    else:
        raise AssertionError("nothing was raised")
    x = torch.full((3,), float(RANK))
    with _coalescing_manager(device=torch.device("cpu"), async_ops=True) as manager:
        dist.broadcast(x, 1)
    manager.wait()
    assert (x == 1).all()
    y = mine(3)
    dist.all_reduce(y)
    assert (y == SUM).all()


def check_tensors_of_a_work_may_go_before_it() -> None:
    """The work keeps them."""
    works = [dist.all_reduce(mine(20_000), async_op=True) for _ in range(20)]
    inputs = [dist.all_gather_into_tensor(torch.empty(SIZE * 5000), mine(5000), async_op=True)]
    for work in works + inputs:
        work.wait()
    # nor need anybody keep the work
    x = mine(20_000)
    dist.all_reduce(x, async_op=True)
    dist.barrier()
    until(lambda: bool((x == SUM).all()))


def check_threads_with_a_group_each() -> None:
    groups = [dist.new_group() for _ in range(2)]
    errors: list[BaseException] = []

    def work(group: dist.ProcessGroup, factor: float) -> None:
        try:
            for _ in range(100):
                x = mine(300, factor)
                dist.all_reduce(x, group=group)
                assert (x == SUM * factor).all()
        except BaseException as error:  # shown in the main thread
            errors.append(error)

    threads = [
        threading.Thread(target=work, args=(group, number + 1.0))
        for number, group in enumerate(groups)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not errors, errors
    for group in groups:
        dist.destroy_process_group(group)


# --- the pool ------------------------------------------------------------------------------------


def check_tensors_made_in_a_pool_block_are_moved_without_a_copy() -> None:
    with shoal.torch.pool():
        x = torch.ones(100_000)
        y = torch.empty(SIZE, 100_000)
        small = torch.ones(3)
        with shoal.torch.pool(smallest=8):
            tiny = torch.ones(3)
        after = torch.ones(3)
    outside = torch.ones(100_000)
    assert shoal.torch.in_pool(x) and shoal.torch.in_pool(y) and shoal.torch.in_pool(tiny)
    assert shoal.torch.in_pool(x[5:10]) and not shoal.torch.in_pool(outside)
    assert not shoal.torch.in_pool(small) and not shoal.torch.in_pool(after)
    before = shoal.torch.statistics()
    assert before["pool_bytes"] >= x.nbytes + y.nbytes
    dist.all_reduce(x)
    dist.all_gather_into_tensor(y.view(-1), x)
    dist.reduce_scatter_tensor(x, y)
    after_calls = shoal.torch.statistics()
    assert after_calls["staged_bytes"] == before["staged_bytes"]
    assert after_calls["copied_bytes"] == before["copied_bytes"]
    assert after_calls["operations"] >= before["operations"] + 3
    dist.all_reduce(outside)
    assert shoal.torch.statistics()["staged_bytes"] >= before["staged_bytes"] + outside.nbytes
    dist.all_reduce(torch.ones(300, 400).t())
    assert shoal.torch.statistics()["copied_tensors"] > before["copied_tensors"]


@torch.no_grad()
def check_lists_in_the_pool_are_not_copied() -> None:
    with shoal.torch.pool():
        mine, parts = torch.full((5000,), float(RANK)), [torch.empty(5000) for _ in range(SIZE)]
    before = shoal.torch.statistics()
    dist.all_gather(parts, mine)
    assert [part[-1].item() for part in parts] == list(range(SIZE))
    dist.reduce_scatter(mine, parts)
    assert mine[0].item() == RANK * SIZE
    dist.gather(mine, parts if RANK == 1 else None, 1)
    dist.scatter(mine, parts if RANK == 1 else None, 1)
    assert mine[-1].item() == RANK * SIZE
    after = shoal.torch.statistics()
    for count in "staged_bytes", "copied_bytes":
        assert after[count] == before[count], count


@torch.no_grad()
def check_the_pool_is_a_decorator_and_gives_memory_back() -> None:
    @shoal.torch.pool()
    def make() -> torch.Tensor:
        return torch.empty(1 << 20)

    before = shoal.torch.statistics()["pool_bytes"]
    for _ in range(200):  # 800 MB, if none were given back
        x = make()
        assert shoal.torch.in_pool(x)
    del x
    until(lambda: shoal.torch.statistics()["pool_bytes"] <= before)


def check_other_threads_are_not_in_the_block() -> None:
    found: list[bool] = []
    with shoal.torch.pool():
        thread = threading.Thread(
            target=lambda: found.append(shoal.torch.in_pool(torch.empty(10_000)))
        )
        thread.start()
        thread.join()
    assert found == [False]


def check_pool_tensors_are_tensors_like_others() -> None:
    with shoal.torch.pool():
        x = torch.arange(10_000.0, requires_grad=True)
        (x * 2).sum().backward()
        assert x.grad is not None and (x.grad == 2).all() and shoal.torch.in_pool(x.grad)
        y = torch.empty(10_000)
        y.resize_(20_000)
        module = torch.nn.Linear(100, 100)
    assert all(shoal.torch.in_pool(p) for p in module.parameters() if p.nbytes >= 1024)
    assert float(module(torch.ones(100)).sum()) == float(module(torch.ones(100)).sum())
    assert torch.equal(torch.from_numpy(x.detach().numpy()), x.detach())


def check_what_is_asked_of_other_backends_is_refused() -> None:
    group = dist.new_group(backend="gloo")
    checks.throws(RuntimeError, lambda: shoal.torch.backend(group), "gloo", 'backend="shoal"')
    checks.throws(RuntimeError, lambda: shoal.torch.statistics(group), "gloo")
    dist.destroy_process_group(group)


if __name__ == "__main__":
    checks.run(globals(), sys.argv[1:])

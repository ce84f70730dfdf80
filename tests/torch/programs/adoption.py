"""Ordinary memory that is used again and again becomes the pool's (csrc/torch/large_blocks.h)."""

from __future__ import annotations

import gc
import os
import threading

import checks
import torch
import torch.distributed as dist
from checks import RANK, SIZE

import shoal.torch

ELEMENTS = 100_000  # 400 KB; blocks from 128 KiB on are known
USES = 3  # then it is adopted


def statistics() -> dict[str, int]:
    return shoal.torch.statistics()


def values(seed: int, elements: int = ELEMENTS) -> torch.Tensor:
    return torch.randn(elements, generator=torch.Generator().manual_seed(seed))


def adopted(elements: int = ELEMENTS) -> torch.Tensor:
    x = torch.zeros(elements)
    for _ in range(USES):
        dist.all_reduce(x)
    assert shoal.torch.in_pool(x)
    return x


def expected_sum(seed: int) -> torch.Tensor:
    total = values(seed)
    for rank in range(1, SIZE):
        total = total + values(seed + rank)
    return total


def check_what_is_used_again_is_moved_without_a_copy() -> None:
    before = statistics()
    x = torch.empty(ELEMENTS)
    address, other_view, other_library = x.data_ptr(), x[10:20], x.numpy()
    results = []
    for use in range(6):
        x.copy_(values(RANK))
        assert shoal.torch.in_pool(x) == (use >= USES)
        dist.all_reduce(x)
        results.append(x.clone())
    assert x.data_ptr() == address
    assert torch.equal(other_view, x[10:20])
    assert torch.equal(torch.from_numpy(other_library), x)
    # The same bits, wherever the tensor lies.
    assert all(torch.equal(result, results[0]) for result in results)
    torch.testing.assert_close(results[0], expected_sum(0))
    after = statistics()
    assert after["staged"] - before["staged"] == USES, (before, after)
    assert after["adopted_tensors"] == before["adopted_tensors"] + 1
    assert after["adopted_bytes"] == before["adopted_bytes"] + x.nbytes


def check_inputs_keep_what_they_hold() -> None:
    x, y = values(RANK), torch.empty(SIZE * ELEMENTS)
    for _ in range(USES + 2):
        y.fill_(-1)
        dist.all_gather_into_tensor(y, x)
        assert torch.equal(x, values(RANK))
        assert torch.equal(y, torch.cat([values(rank) for rank in range(SIZE)]))
    assert shoal.torch.in_pool(x) and shoal.torch.in_pool(y)


def check_a_part_of_a_block_is_none() -> None:
    """What lies beside it may be written by others meanwhile."""
    x = torch.zeros(2 * ELEMENTS)
    for _ in range(2 * USES):
        dist.all_reduce(x[:ELEMENTS])
    assert not shoal.torch.in_pool(x)


def check_small_tensors_stay() -> None:
    x = torch.zeros(30_000)
    for _ in range(2 * USES):
        dist.all_reduce(x)
    assert not shoal.torch.in_pool(x)


def check_memory_is_the_allocators_again() -> None:
    gc.collect()
    before = statistics()
    for round in range(20):
        x = adopted()
        assert statistics()["adopted_tensors"] == before["adopted_tensors"] + 1
        del x
        assert statistics()["adopted_tensors"] == before["adopted_tensors"]
        # If the pool's pages were still there, rank 1 would find what rank 0 has written.
        y = torch.full((ELEMENTS,), float(RANK))
        dist.barrier()
        assert (y == RANK).all(), round
    assert statistics()["pool_bytes"] == before["pool_bytes"]


def check_parts_of_an_adopted_block() -> None:
    x = adopted(SIZE * ELEMENTS)
    part = x[RANK * ELEMENTS : (RANK + 1) * ELEMENTS]
    staged = statistics()["staged_bytes"]
    part.copy_(values(RANK))
    dist.all_gather_into_tensor(x, part)  # in place
    assert torch.equal(x, torch.cat([values(rank) for rank in range(SIZE)]))
    dist.reduce_scatter_tensor(part, x)  # in place
    torch.testing.assert_close(part, SIZE * values(RANK))
    tiny = x[:2]
    tiny.fill_(RANK)
    dist.all_reduce(tiny, op=dist.ReduceOp.MAX)
    assert (tiny == SIZE - 1).all()
    assert statistics()["staged_bytes"] == staged


def check_uneven_exchanges_of_adopted_blocks() -> None:
    x, y = adopted(SIZE * ELEMENTS), adopted(SIZE * (ELEMENTS + 100))
    x.fill_(RANK)
    splits = [ELEMENTS] * SIZE
    splits[0] += 100
    splits[-1] -= 100
    mine = splits[RANK]
    out = y[: SIZE * mine]
    dist.all_to_all_single(out, x, [mine] * SIZE, splits)
    expected = torch.arange(float(SIZE)).repeat_interleave(mine)
    assert torch.equal(out, expected)


def check_asynchronous_operations() -> None:
    x, y = torch.empty(ELEMENTS), torch.empty(ELEMENTS)
    futures_saw = []
    for use in range(2 * USES):
        x.copy_(values(RANK))
        y.copy_(values(RANK + 100))
        works = [dist.all_reduce(x, async_op=True), dist.all_reduce(y, async_op=True)]
        seen = works[0].get_future().then(lambda _: x.clone())
        for work in works:
            work.wait()
        futures_saw.append(seen.wait())
        torch.testing.assert_close(x, expected_sum(0))
        torch.testing.assert_close(y, expected_sum(100))
        assert torch.equal(futures_saw[-1], x), use
    assert shoal.torch.in_pool(x) and shoal.torch.in_pool(y)


def check_two_operations_read_one_tensor() -> None:
    """It is adopted when neither of them uses it."""
    x = values(RANK)
    outputs = [torch.empty(SIZE * ELEMENTS) for _ in range(2)]
    groups = [dist.group.WORLD, dist.new_group()]
    for _ in range(2 * USES):
        works = [
            dist.all_gather_into_tensor(y, x, group=group, async_op=True)
            for y, group in zip(outputs, groups, strict=True)
        ]
        for work in works:
            work.wait()
        for y in outputs:
            assert torch.equal(y, torch.cat([values(rank) for rank in range(SIZE)]))
    assert shoal.torch.in_pool(x)


def check_a_forked_child_has_a_copy() -> None:
    x = adopted()
    x.fill_(1)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.read(read, 1)  # the parent has written
            good = bool((x == 1).all())
            x.fill_(2)
            del x  # gives pages back
            y = torch.full((ELEMENTS,), 3.0)
            good = good and bool((y == 3).all())
            code = 0 if good else 2
        finally:
            os._exit(code)
    x.fill_(4)
    os.write(write, b"x")
    ended, status = os.waitpid(pid, 0)
    assert status == 0, status
    assert (x == 4).all()
    dist.all_reduce(x)
    assert (x == 4 * SIZE).all() and shoal.torch.in_pool(x)
    os.close(read)
    os.close(write)


def check_forks_while_others_write() -> None:
    """What a thread writes into an adopted tensor while another one forks is not lost."""
    x = adopted()
    over = threading.Event()
    lost: list[int] = []

    def count() -> None:
        last = 0
        while not over.is_set():
            if not (x == last).all():
                lost.append(last)
            last += 1
            x.fill_(last)

    x.fill_(0)
    thread = threading.Thread(target=count)
    thread.start()
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    over.set()
    thread.join()
    assert not lost, lost


def check_memory_of_libraries_beneath() -> None:
    """oneDNN takes its own memory from torch's allocator, and gives it back by address alone."""
    for _ in range(2):
        with shoal.torch.pool():
            layer = torch.nn.Conv2d(3, 64, 3)
            layer(torch.randn(8, 3, 64, 64)).sum().backward()
            recurrent = torch.nn.LSTM(128, 256)
            recurrent(torch.randn(32, 16, 128))[0].sum().backward()
        layer(torch.randn(8, 3, 64, 64)).sum().backward()


def check_gradient_buckets_without_a_word() -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(400, 400) for _ in range(4)))
    parallel = torch.nn.parallel.DistributedDataParallel(model, bucket_cap_mb=1)
    # DDP makes its buckets anew after the first step.
    for _ in range(2 + USES):
        parallel(torch.randn(8, 400)).square().mean().backward()
    before = statistics()
    for _ in range(3):
        parallel(torch.randn(8, 400)).square().mean().backward()
    after = statistics()
    assert after["staged_bytes"] == before["staged_bytes"]
    assert after["adopted_bytes"] >= 4 * 400 * 400 * 4


def check_another_job_has_another_pool() -> None:
    x = adopted()
    x.copy_(values(RANK))
    store = dist.distributed_c10d._get_default_store()
    dist.destroy_process_group()
    dist.init_process_group(
        "shoal", store=dist.PrefixStore("another", store), rank=RANK, world_size=SIZE
    )
    assert torch.equal(x, values(RANK))
    dist.all_reduce(x)
    torch.testing.assert_close(x, expected_sum(0))
    x.fill_(1)
    dist.all_reduce(x)
    assert (x == SIZE).all()
    adopted()


checks.run(globals())

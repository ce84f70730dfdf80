"""Groups of ranks: made, used beside one another, and left."""

from __future__ import annotations

import functools
import os
import pathlib
import sys
import time
from datetime import timedelta

import checks
import torch
import torch.distributed as dist
from checks import RANK, SIZE
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import shoal.torch

GROUPS = 200
GROUPS_LIMIT_S = 60.0  # 2 to 5 s here; a new context for each would take minutes


def mine(length: int = 1000) -> torch.Tensor:
    return torch.full((length,), RANK + 1.0)


def start(backend: str, name: str, store: dist.Store) -> None:
    """The default group again, over a part of the store of its own."""
    prefix = dist.PrefixStore(name, store)
    dist.init_process_group(
        backend, store=prefix, rank=RANK, world_size=SIZE, timeout=checks.TIMEOUT
    )


def total(ranks: list[int]) -> float:
    return float(sum(rank + 1 for rank in ranks))


def require_sum(group: dist.ProcessGroup, ranks: list[int], length: int = 1000) -> None:
    x = mine(length)
    dist.all_reduce(x, group=group)
    assert (x == total(ranks)).all(), (ranks, x[:4])


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def files() -> int:
    return len(os.listdir("/proc/self/fd"))


def check_the_backend_is_known_by_its_name() -> None:
    assert dist.get_backend() == "shoal"
    assert type(shoal.torch.backend()).__name__ == "ProcessGroupShoal"


def check_a_group_of_some_ranks() -> None:
    ranks = [0, SIZE - 1]
    group = dist.new_group(ranks)
    if RANK not in ranks:
        assert group == dist.GroupMember.NON_GROUP_MEMBER
        return
    assert dist.get_group_rank(group, RANK) == ranks.index(RANK)
    require_sum(group, ranks)
    x = mine()
    dist.broadcast(x, SIZE - 1, group=group)
    assert (x == SIZE).all()
    if RANK == 0:
        dist.send(mine(), SIZE - 1, group=group)
    else:
        assert dist.recv(x, group=group) == 0  # from any of the group, named by its rank of all
        assert (x == 1).all()
    dist.destroy_process_group(group)


def check_groups_made_by_their_members_alone() -> None:
    ranks = [0, 1] if RANK < 2 else list(range(2, SIZE))
    group = dist.new_group(ranks, use_local_synchronization=True)
    require_sum(group, ranks)
    dist.destroy_process_group(group)


def check_overlapping_groups_take_turns() -> None:
    pairs = [sorted({rank, (rank + 1) % SIZE}) for rank in range(SIZE)]
    groups = [dist.new_group(ranks) for ranks in pairs]
    mine_of = [(g, ranks) for g, ranks in zip(groups, pairs, strict=True) if RANK in ranks]
    for length in (1, 5000):
        tensors = [mine(length) for _ in mine_of]
        works = [
            dist.all_reduce(x, group=group, async_op=True)
            for x, (group, _) in zip(tensors, mine_of, strict=True)
        ]
        everyone = mine(length)
        dist.all_reduce(everyone)
        for work in reversed(works):
            work.wait()
        assert (everyone == total(list(range(SIZE)))).all()
        for x, (_, ranks) in zip(tensors, mine_of, strict=True):
            assert (x == total(ranks)).all()
    for group, _ in mine_of:
        dist.destroy_process_group(group)


def check_a_group_of_one() -> None:
    groups = [dist.new_group([rank]) for rank in range(SIZE)]
    x = mine()
    dist.all_reduce(x, group=groups[RANK])
    assert (x == RANK + 1).all()
    y = torch.empty(1000)
    dist.all_gather_into_tensor(y, x, group=groups[RANK])
    dist.all_to_all_single(y, x, group=groups[RANK])
    dist.barrier(group=groups[RANK])
    assert torch.equal(x, y)
    dist.destroy_process_group(groups[RANK])


def check_groups_of_a_group() -> None:
    """The devices' mesh slices groups again and again."""
    half = list(range(SIZE // 2)) if RANK < SIZE // 2 else list(range(SIZE // 2, SIZE))
    halves = dist.new_group(half, use_local_synchronization=True)
    one = dist.new_group([half[0]], use_local_synchronization=True) if half[0] == RANK else None
    require_sum(halves, half)
    if one is not None:
        require_sum(one, [RANK])


def check_many_groups_cost_little() -> None:
    before, before_files = threads(), files()
    started = time.monotonic()
    groups = []
    for number in range(GROUPS):
        group = dist.new_group([0, 1 + number % (SIZE - 1)] if number % 2 else None)
        if group != dist.GroupMember.NON_GROUP_MEMBER:
            groups.append((group, number))
    for _ in range(2):
        for group, _ in groups:
            require_sum(group, dist.get_process_group_ranks(group), 100)
    took = time.monotonic() - started
    if RANK == 0:
        print(f"{GROUPS} groups made and used in {took:.1f} s")
    assert took < GROUPS_LIMIT_S, took
    assert threads() <= before + 1, (before, threads())
    assert files() <= before_files + 8, (before_files, files())
    for group, _ in groups:
        dist.destroy_process_group(group)
    del groups, group
    require_sum(dist.group.WORLD, list(range(SIZE)))
    assert threads() <= before + 1, (before, threads())


def check_device_mesh() -> None:
    mesh = init_device_mesh("cpu", (2, SIZE // 2), mesh_dim_names=("data", "model"))
    row = [RANK // (SIZE // 2) * (SIZE // 2) + i for i in range(SIZE // 2)]
    column = [RANK % (SIZE // 2) + i * (SIZE // 2) for i in range(2)]
    require_sum(mesh["model"].get_group(), row)
    require_sum(mesh["data"].get_group(), column)
    flat = mesh._flatten("all")
    require_sum(flat.get_group(), list(range(SIZE)))
    own = DeviceMesh.from_group(dist.new_group(), "cpu")
    require_sum(own.get_group(), list(range(SIZE)))


def check_shoal_and_gloo_side_by_side() -> None:
    gloo = dist.new_group(backend="gloo")
    for _ in range(3):
        require_sum(gloo, list(range(SIZE)))
        require_sum(dist.group.WORLD, list(range(SIZE)))
    dist.destroy_process_group(gloo)


def check_a_group_s_own_timeout() -> None:
    group = dist.new_group(timeout=timedelta(seconds=1))
    if RANK == 0:
        text = checks.throws(
            dist.DistBackendError, lambda: dist.all_reduce(mine(), group=group), "Timeout"
        )
        assert "rank 1" in text, text
    dist.barrier()  # of all ranks: it knows nothing of the other group's end
    require_sum(dist.group.WORLD, list(range(SIZE)))


def check_monitored_barrier_names_who_is_late() -> None:
    for wait_all in (False, True):
        group = dist.new_group()
        late = range(1, SIZE) if wait_all else [SIZE - 1]
        if RANK == 0:
            started = time.monotonic()
            call = functools.partial(
                dist.monitored_barrier, group, timedelta(seconds=1), wait_all_ranks=wait_all
            )
            text = checks.throws(RuntimeError, call, "failed to pass monitoredBarrier")
            words = text.replace(",", "").split()
            assert all(str(rank) in words for rank in late), text
            assert time.monotonic() - started < 8
        elif RANK not in late:
            checks.throws(
                RuntimeError,
                lambda group=group: dist.monitored_barrier(group, timedelta(seconds=3)),
            )
        dist.barrier()


def check_a_group_is_split() -> None:
    """dist.split_group() is for groups bound to an accelerator; this is what it calls."""
    ranks = [0, SIZE - 1]
    group = dist.group.WORLD.split_group(ranks, timedelta(seconds=20), None, "split", "a part")
    if RANK in ranks:
        x = mine()
        group.allreduce([x]).wait()
        assert (x == total(ranks)).all() and group.rank() == ranks.index(RANK)
    require_sum(dist.group.WORLD, list(range(SIZE)))


def check_leaving_and_starting_again() -> None:
    """Over the very same store, and over new ones."""
    pool = None
    store = dist.distributed_c10d._get_default_store()
    for number in range(4):
        dist.destroy_process_group()
        assert not dist.is_initialized()
        start("shoal", "again and again", store)
        group = dist.new_group([0, 1])
        if RANK < 2:
            require_sum(group, [0, 1])
        require_sum(dist.group.WORLD, list(range(SIZE)))
        if pool is not None:  # memory of a job that has ended
            assert float(pool.sum()) == 5000.0 * (number - 1)
            dist.all_reduce(pool)
        with shoal.torch.pool():
            pool = torch.full((5000,), float(number))
    del pool  # it keeps its job, with what belongs to that
    before = threads(), files()
    for _ in range(3):
        dist.destroy_process_group()
        start("shoal", "again and again", store)
        require_sum(dist.group.WORLD, list(range(SIZE)))
    assert threads() <= before[0] + 1, (before, threads())
    assert files() <= before[1] + 8, (before, files())


def check_gloo_first_and_shoal_in_a_group_of_it() -> None:
    store = dist.distributed_c10d._get_default_store()
    dist.destroy_process_group()
    dist.init_process_group(
        "gloo", store=dist.PrefixStore("gloo", store), rank=RANK, world_size=SIZE
    )
    group = dist.new_group(backend="shoal")
    require_sum(group, list(range(SIZE)))
    half = dist.new_group([0, 1], backend="shoal")
    if RANK < 2:
        require_sum(half, [0, 1])
        assert isinstance(shoal.torch.statistics(half), dict)
        with shoal.torch.pool(half):
            assert shoal.torch.in_pool(torch.empty(1000), half)
    dist.destroy_process_group()
    start("shoal", "after gloo", store)


def check_a_device_s_backend_by_string() -> None:
    store = dist.distributed_c10d._get_default_store()
    devices = "cuda:nccl" if dist.is_nccl_available() else "cuda:gloo"
    dist.destroy_process_group()
    start(f"cpu:shoal,{devices}", "both", store)
    require_sum(dist.group.WORLD, list(range(SIZE)))
    group = dist.new_group([0, 1])
    if RANK < 2:
        require_sum(group, [0, 1])
    assert type(shoal.torch.backend()).__name__ == "ProcessGroupShoal"
    dist.destroy_process_group()
    start("shoal", "after both", store)


def check_a_file_as_the_meeting_place() -> None:
    names: list[object] = [f"/tmp/shoal-test-{os.getpid()}"]
    dist.broadcast_object_list(names, 0)
    path, store = str(names[0]), dist.distributed_c10d._get_default_store()
    dist.destroy_process_group()
    dist.init_process_group("shoal", init_method=f"file://{path}", rank=RANK, world_size=SIZE)
    require_sum(dist.group.WORLD, list(range(SIZE)))
    dist.barrier()
    dist.destroy_process_group()
    pathlib.Path(path).unlink(missing_ok=True)
    start("shoal", "after a file", store)


if __name__ == "__main__":
    checks.run(globals(), sys.argv[1:])

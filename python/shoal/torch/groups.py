"""Process groups over shoal: how torch makes them, and what they can do beyond torch's calls."""

from __future__ import annotations

import atexit
import contextlib
import weakref
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from shoal._ucx import ucx_directory
from shoal.torch import extension

_C = extension.load()

# The backend of the default group while it lives: groups of its ranks are made out of it.
_default: weakref.ref[Any] | None = None


def create(options: Any, backend_options: Any) -> Any:
    """Called by torch on each rank of a new group; returns its backend."""
    global _default
    timeout: timedelta = options.timeout
    ranks = list(options.global_ranks_in_group)
    name = options.group_id
    is_default = not dist.is_initialized()
    parent = None if is_default or _default is None else _default()
    if parent is not None and ranks and _spans_world(parent):
        return _C.create_subgroup(
            parent, options.store, ranks, options.group_rank, timeout, name, ranks
        )
    made = _C.create(
        options.store, options.group_rank, options.group_size, timeout, name, ranks, ucx_directory()
    )
    if is_default:
        _default = weakref.ref(made)
    return made


def _spans_world(parent: Any) -> bool:
    """It has been made for the default group that there is now."""
    return bool(parent.size() == dist.get_world_size() and not parent.is_shut_down)


def backend(group: dist.ProcessGroup | None = None) -> Any:
    """The ProcessGroupShoal of a process group (default: of all ranks).

    Raises   RuntimeError if its backend is another one, both for the CPU and for CUDA.
    """
    of = c10d._get_default_group() if group is None else group
    for device in ("cpu", "cuda"):
        try:
            found = of._get_backend(torch.device(device))
        except RuntimeError:  # it has none for that device
            continue
        wrapped = getattr(found, "wrapped_pg", None)  # TORCH_DISTRIBUTED_DEBUG=DETAIL
        for one in (found, wrapped):
            if isinstance(one, _C.ProcessGroupShoal):
                return one
    raise RuntimeError(
        f'shoal.torch: the process group has the backend "{dist.get_backend(of)}"; '
        'it is made by init_process_group("shoal") or new_group(backend="shoal")'
    )


@contextlib.contextmanager
def pool(group: dist.ProcessGroup | None = None, *, smallest: int = 1024) -> Iterator[None]:
    """Inside, CPU tensors that this thread makes have their memory in the pool: collectives of
    ranks on one node move them without a copy, from the first time on. (Large tensors that are
    used again and again come into the pool by themselves.)

        with shoal.torch.pool():
            model = DistributedDataParallel(Model())     # gradient buckets
            train(model)                                 # DDP makes its buckets anew after a step

    A tensor's memory stays the pool's as long as it lives, also after the block and after its
    process group. Where the pool is full, memory comes from where it came before. Also a decorator.

    Units    tensors of `smallest` bytes and more.
    Raises   RuntimeError if there is no process group over shoal.
    """
    scope = _C.enter_pool(backend(group), smallest)
    try:
        yield
    finally:
        scope.leave()


def in_pool(tensor: torch.Tensor, group: dist.ProcessGroup | None = None) -> bool:
    """True if the tensor's memory is the pool's."""
    return bool(backend(group).in_pool(tensor))


def statistics(group: dist.ProcessGroup | None = None) -> dict[str, int]:
    """What this process has done, and what was copied for it.

    operations      collectives begun, of all groups of the job
    staged          of these, those with tensors outside the pool where ranks share memory (small
                    ones, up to 2 KiB, are not counted: they travel in slots wherever they lie)
    staged_bytes    of those tensors
    adopted_tensors, adopted_bytes  large tensors outside the pool whose memory it has taken over,
                    because three operations have used them; those that there are now
    copied_tensors  of this group: tensors that went through another one, because they were not
                    contiguous, on another device, or parts of a list that do not lie together
    copied_bytes    of those
    copied_through_host  of those tensors, CUDA's for which the host waited, because shoal has no
                    such operation on a stream (a warning says why)
    pool_bytes      of the pool that are in use
    """
    result: dict[str, int] = backend(group).statistics()
    return result


def last_operations(group: dist.ProcessGroup | None = None) -> list[dict[str, Any]]:
    """The last 256 operations that this process has begun, of all groups of the job, in order.

    group       number of the communicator, the same on all its ranks; 0: all ranks
    sequence    of the operation in the group, the same on all ranks (messages count on each rank)
    operation, elements, dtype, timeout_ms, begin_ns, end_ns (CLOCK_REALTIME; 0: not yet)
    state       "started", "completed", "failed"

    After a time-out every rank writes the same as JSON into a file that its error names:
    TORCH_FR_DUMP_TEMP_FILE (default /tmp/shoal_trace_rank_) with its rank behind it.
    """
    result: list[dict[str, Any]] = backend(group).last_operations()
    return result


# Tensors and groups may outlive the interpreter's care; jobs are left in order all the same.
atexit.register(_C.leave_all_jobs)

"""Makes torch.distributed know the backend "shoal", without loading anything of it.

Entry point `torch.backends`: called at the end of `import torch`, so it must cost next to nothing.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any


def register() -> None:
    """Registers the backend; again is harmless."""
    import torch.distributed as dist

    if not dist.is_available() or "shoal" in dist.Backend.backend_list:
        return
    dist.Backend.register_backend("shoal", _create, extended_api=True, devices=["cpu", "cuda"])
    _let_monitored_barrier()


def _create(options: Any, backend_options: Any) -> Any:
    from shoal.torch import groups

    return groups.create(options, backend_options)


def _let_monitored_barrier() -> None:
    """torch refuses dist.monitored_barrier() for every backend that is not called gloo."""
    import torch.distributed as dist
    from torch.distributed import distributed_c10d as c10d

    original = c10d.monitored_barrier

    def monitored_barrier(
        group: Any = None, timeout: timedelta | float | None = None, wait_all_ranks: bool = False
    ) -> None:
        if c10d._rank_not_in_group(group) or dist.get_backend(group) != "shoal":
            original(group, timeout, wait_all_ranks)
            return
        if timeout is None:
            timeout = c10d.default_pg_timeout
        elif not isinstance(timeout, timedelta):
            timeout = timedelta(seconds=timeout)
        c10d._check_valid_timeout(timeout)
        of = c10d._get_default_group() if group is None else group
        of.monitored_barrier(timeout, wait_all_ranks=wait_all_ranks)

    monitored_barrier.__doc__ = original.__doc__
    c10d.monitored_barrier = dist.monitored_barrier = monitored_barrier

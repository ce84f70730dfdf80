"""shoal as a backend of torch.distributed.

    import torch.distributed as dist

    dist.init_process_group("shoal")         # under torchrun or `shoal run`; all else stays

    with shoal.torch.pool():                 # tensors in the pool: moved without a copy
        model = DistributedDataParallel(Model())
        for batch in loader:
            ...

`import shoal.torch` is needed for pool() only: torch knows the backend by an entry point. Set
TORCH_DEVICE_BACKEND_AUTOLOAD=0 to switch that off; then this import registers the backend.

The extension is built for one version of torch: when shoal is installed beside it, or by
`python -m shoal.torch.build`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import _shoal_torch

if TYPE_CHECKING:
    from shoal.torch.groups import backend, in_pool, last_operations, pool, statistics

__all__ = ["backend", "in_pool", "last_operations", "pool", "statistics"]

_shoal_torch.register()


def __getattr__(name: str) -> Any:
    """The extension is loaded when it is needed: building it must not need it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from shoal.torch import groups

    return getattr(groups, name)

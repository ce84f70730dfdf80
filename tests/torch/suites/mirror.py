"""A backend of another name that is gloo inside.

What gloo passes and this does not is refused or decided by torch for the name, or compares the
name with what gloo writes; no library can be blamed for it. `--backend mirror` shows whether
sources.py treats another name like gloo, and which of known.toml's reasons hold.
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist


def create(options: Any, _: Any) -> Any:
    gloo: Any = dist.ProcessGroupGloo
    return gloo(options.store, options.group_rank, options.group_size, timeout=options.timeout)


dist.Backend.register_backend("mirror", create, extended_api=True, devices=["cpu"])

"""The checks of collectives.py with every tensor on the device while a call works on it.

Every second call is asynchronous, and waited for. What shares memory shares it there too; layouts
stay as they are.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Callable
from typing import Any

import fake_cuda  # isort: skip  (before torch)

import checks
import collectives
import torch
import torch.distributed as dist

CALLS = [
    "all_gather", "all_gather_coalesced", "all_gather_into_tensor", "all_reduce",
    "all_reduce_coalesced", "all_to_all", "all_to_all_single", "broadcast", "gather", "recv",
    "reduce", "reduce_scatter", "reduce_scatter_tensor", "scatter", "send",
]  # fmt: skip
_turns = itertools.count()


class Moved:
    """The tensors of one call: their memory, as it lies, on the device."""

    def __init__(self) -> None:
        self.memory: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def tensor(self, x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.nbytes() == 0:
            return fake_cuda.on_device(x)
        if storage.data_ptr() not in self.memory:
            here = torch.empty(0, dtype=torch.uint8).set_(storage)
            self.memory[storage.data_ptr()] = (here, fake_cuda.on_device(here))
        _, there = self.memory[storage.data_ptr()]
        there = torch.ops.fake_cuda.view_as_type(there, x.dtype)
        return there.as_strided(x.shape, x.stride(), x.storage_offset())

    def value(self, x: Any) -> Any:
        if isinstance(x, torch.Tensor) and x.layout == torch.strided:
            return self.tensor(x)
        return [self.value(one) for one in x] if isinstance(x, list) else x

    def bring_back(self) -> None:
        for here, there in self.memory.values():
            here.copy_(there)


def on_device(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    moved = Moved()
    arguments = tuple(moved.value(x) for x in arguments)
    options = {name: moved.value(x) for name, x in options.items()}
    if call.__name__ not in ("send", "recv") and next(_turns) % 2:
        result = call(*arguments, **{**options, "async_op": True})
        result.wait()
    else:
        result = call(*arguments, **options)
    moved.bring_back()
    return result


if __name__ == "__main__":
    for name in CALLS:
        setattr(dist, name, functools.partial(on_device, getattr(dist, name)))
    checks.run(vars(collectives), sys.argv[1:])

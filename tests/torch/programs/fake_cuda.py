"""A CUDA device for programs, over the stand-in for CUDA's driver (tests/torch/fake_cuda)."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pathlib
from collections.abc import Iterator

# Autograd works on the device if this comes before torch, which asks once whether there is one.
_torch = importlib.util.find_spec("torch")
assert _torch is not None and _torch.origin is not None
ctypes.CDLL(str(pathlib.Path(_torch.origin).parent / "lib" / "libtorch_cpu.so"), ctypes.RTLD_GLOBAL)
ctypes.CDLL(os.environ["TORCH_FAKE_CUDA"])

import torch  # noqa: E402

# torch asks whether it may have float8.
torch.cuda.get_device_capability = lambda device=None: (9, 0)

DEVICE = torch.device("cuda:0")
# What torch.cuda has, for the current stream: delay(ms), is_idle(), synchronize().
delay = torch.ops.fake_cuda.delay
is_idle = torch.ops.fake_cuda.is_idle
synchronize = torch.ops.fake_cuda.synchronize


def on_device(x: torch.Tensor) -> torch.Tensor:
    return torch.ops.fake_cuda.to_device(x)


@contextlib.contextmanager
def other_stream() -> Iterator[None]:
    """Inside, another stream is the current one. It is not ordered after anything."""
    before = torch.ops.fake_cuda.set_stream(torch.ops.fake_cuda.new_stream())
    try:
        yield
    finally:
        torch.ops.fake_cuda.set_stream(before)

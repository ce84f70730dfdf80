"""The few calls of CUDA's driver that a benchmark needs, by ctypes: no package is asked for.

SHOAL_CUDA_DRIVER names another library, as everywhere in shoal: over the stand-in (tests/fake_cuda)
the benchmark can be tried where no GPU is. Its times say nothing then.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

_NON_BLOCKING = 1
_CAPTURE_THREAD_LOCAL = 1


class Driver:
    """The primary context of this rank's device, current in the thread that makes this."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ.get("SHOAL_CUDA_DRIVER") or "libcuda.so.1")
        context, devices = ctypes.c_void_p(), ctypes.c_int()
        self("cuInit", 0)
        self("cuDeviceGetCount", ctypes.byref(devices))
        chosen = os.environ.get("SHOAL_CUDA_DEVICE")
        local = int(os.environ.get("SHOAL_LOCAL_RANK") or 0)
        ranks = int(os.environ.get("SHOAL_LOCAL_SIZE") or 1)
        self.device = int(chosen) if chosen else local % devices.value
        self.ranks_share = ranks > (1 if chosen else devices.value)
        self("cuDevicePrimaryCtxRetain", ctypes.byref(context), self.device)
        self("cuCtxPushCurrent_v2", context)

    @property
    def name(self) -> str:
        text = ctypes.create_string_buffer(128)
        self("cuDeviceGetName", text, len(text), self.device)
        return text.value.decode(errors="replace")

    def __call__(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            raise RuntimeError(f"{name}: CUDA error {code}")

    def stream(self) -> int:
        handle = ctypes.c_void_p()
        self("cuStreamCreate", ctypes.byref(handle), _NON_BLOCKING)
        assert handle.value is not None
        return handle.value

    def synchronize(self, stream: int) -> None:
        self("cuStreamSynchronize", ctypes.c_void_p(stream))

    def copy(self, target: int, source: int, count: int, stream: int) -> None:
        self(
            "cuMemcpyDtoDAsync_v2", ctypes.c_uint64(target), ctypes.c_uint64(source),
            ctypes.c_size_t(count), ctypes.c_void_p(stream),
        )  # fmt: skip

    def begin_capture(self, stream: int) -> None:
        self("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), _CAPTURE_THREAD_LOCAL)

    def end_capture(self, stream: int) -> ctypes.c_void_p:
        """What was captured, ready to be launched."""
        graph, ready = ctypes.c_void_p(), ctypes.c_void_p()
        self("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        self("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, ctypes.c_ulonglong(0))
        self("cuGraphDestroy", graph)
        return ready

    def launch(self, graph: ctypes.c_void_p, stream: int) -> None:
        self("cuGraphLaunch", graph, ctypes.c_void_p(stream))

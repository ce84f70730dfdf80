"""torch.distributed's all_reduce of the same bytes: gloo, NCCL, and NCCL over shoal's network.

NCCL takes two ranks on one GPU for a mistake: it compares a hash of the host and the GPU's bus id.
With a NCCL_HOSTID of its own each rank is a node to NCCL, which then goes by its network (sockets,
or shoal's plug-in), as it would between nodes. Which network is said for each group, so that both
take turns in one process.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from typing import Any

from shoal import _nccl

Call = Callable[[], None]
NAMES = ("gloo", "nccl", "nccl over shoal's plug-in")
# A rendezvous or a collective of torch's that takes longer has failed.
LIMIT_S = 25
# What takes longer than that and does not fail is given up: its process ends.
HUNG_S = 30


def prepare(rank: int, shared: bool) -> None:
    """Before torch is loaded: NCCL reads its environment once. `shared`: ranks share a GPU."""
    settings = {"GLOO_SOCKET_IFNAME": "lo", "TORCH_NCCL_DUMP_ON_TIMEOUT": "0"}
    if shared:
        settings |= {
            "NCCL_NET_PLUGIN": str(_nccl.plugin() or "none"),
            "NCCL_HOSTID": f"bench-gpu-{rank}",
            "NCCL_SOCKET_IFNAME": "lo",
            # Nor does it look for NVLink between these "nodes" and their GPUs.
            "NCCL_MNNVL_ENABLE": "0",
            "NCCL_NVLS_ENABLE": "0",
        }
    for name, value in settings.items():
        os.environ.setdefault(name, value)


class Peers:
    """Those of torch's backends that this machine has; each is connected by its first call."""

    def __init__(self, device: int, shared: bool) -> None:
        import torch
        import torch.distributed as dist

        self._torch, self._dist, self._shared = torch, dist, shared
        self._timeout = datetime.timedelta(seconds=LIMIT_S)
        self._on_gpu = torch.cuda.is_available()
        # Where there is no GPU (--try) gloo's own memory serves to try the way there.
        self._device = torch.device("cuda", device) if self._on_gpu else torch.device("cpu")
        if self._on_gpu:
            torch.cuda.set_device(self._device)
        dist.init_process_group("gloo", timeout=self._timeout)
        self._groups: dict[str, Any] = {}

    @property
    def versions(self) -> str:
        text = f"torch {self._torch.__version__}"
        if self._on_gpu:
            text += ", NCCL " + ".".join(map(str, self._torch.cuda.nccl.version()))
        return text

    def call(self, name: str, count: int) -> tuple[Call, Call]:
        """all_reduce of `count` floats: the call, and what ends it. Collective."""
        if name != "gloo" and not self._on_gpu:
            raise RuntimeError("needs a GPU")
        if name not in ("gloo", "nccl"):
            if not self._shared:
                raise RuntimeError("NCCL needs no network: no ranks share a GPU")
            if _nccl.plugin() is None:
                raise RuntimeError(f"this shoal was built without {_nccl.NAME}")
        if name not in self._groups:
            self._groups[name] = self._group(name)
        group, dist = self._groups[name], self._dist
        tensor = self._torch.zeros(count, device=self._device)

        def call() -> None:
            dist.all_reduce(tensor, group=group)

        return call, self._torch.cuda.synchronize if self._on_gpu else lambda: None

    def _group(self, name: str) -> Any:
        if name == "gloo":
            return self._dist.new_group(backend="gloo", timeout=self._timeout)
        options = self._dist.ProcessGroupNCCL.Options()
        if self._shared:
            options.config.net_name = "Socket" if name == "nccl" else "shoal"
        return self._dist.new_group(backend="nccl", timeout=self._timeout, pg_options=options)

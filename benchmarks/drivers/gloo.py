"""torch.distributed with Gloo: gloo.py HARNESS SOCKET NAME RANK RANKS STORE."""

from __future__ import annotations

import os
import sys

import numpy as np
import torch
import torch.distributed as dist
from harness import Call, Driver


class Gloo(Driver):
    def call(self, op: str, source: np.ndarray, target: np.ndarray) -> Call:
        a, b = torch.from_numpy(source), torch.from_numpy(target)
        self._in_place = (b, a) if op == "all_reduce" else None  # torch has no other
        calls: dict[str, Call] = {
            "barrier": dist.barrier,
            "all_reduce": lambda: dist.all_reduce(b),
            "broadcast": lambda: dist.broadcast(a if self.rank == 0 else b, 0),
            "all_gather": lambda: dist.all_gather_into_tensor(b, a),
            "reduce_scatter": lambda: dist.reduce_scatter_tensor(b, a),
            "all_to_all": lambda: dist.all_to_all_single(b, a),
        }
        return calls[op]

    def before_block(self) -> None:
        if self._in_place:
            target, source = self._in_place
            target.copy_(source)


def main() -> None:
    harness, socket, name, rank, ranks, store = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=int(rank),
        world_size=int(ranks),
    )
    driver = Gloo(name, f"torch {torch.__version__}", int(rank), int(ranks))
    code = driver.serve(harness, socket)
    if code == 0:
        dist.destroy_process_group()
    os._exit(code)  # Gloo's threads are not waited for


if __name__ == "__main__":
    main()

"""shoal through its Python API: shoal_python.py HARNESS SOCKET NAME, started by `shoal run`."""

from __future__ import annotations

import sys

import numpy as np
from harness import Call, Driver

import shoal


class Shoal(Driver):
    def __init__(self, name: str) -> None:
        self._comm = shoal.init()
        super().__init__(name, shoal.__version__, self._comm.rank, self._comm.size)

    def arrays(self, buffer: str, in_count: int, out_count: int) -> tuple[np.ndarray, np.ndarray]:
        if buffer != "pool":
            return super().arrays(buffer, in_count, out_count)
        return self._comm.empty(in_count, "float32"), self._comm.empty(out_count, "float32")

    def call(self, op: str, source: np.ndarray, target: np.ndarray) -> Call:
        comm = self._comm
        calls: dict[str, Call] = {
            "barrier": comm.barrier,
            "broadcast": lambda: comm.broadcast(source if self.rank == 0 else target, root=0),
            "all_reduce": lambda: comm.all_reduce(source, out=target),
            "all_gather": lambda: comm.all_gather(source, out=target),
            "reduce_scatter": lambda: comm.reduce_scatter(source, out=target),
            "all_to_all": lambda: comm.all_to_all(source, out=target),
        }
        return calls[op]


if __name__ == "__main__":
    sys.exit(Shoal(sys.argv[3]).serve(sys.argv[1], sys.argv[2]))

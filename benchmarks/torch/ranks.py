"""How the ranks are started: one process each, with all backends in it."""

from __future__ import annotations

import sys
from itertools import count

from ..cells import Cell
from ..libraries import Library, Line, Placement, Process
from ..workshop import Workshop
from .cells import buffers_of


class TorchRanks(Library):
    name = "torch"

    def __init__(self) -> None:
        self._stores = count()

    def make(self, workshop: Workshop) -> None:
        """Nothing is compiled here."""

    def buffers(self, placement: Placement, cell: Cell) -> tuple[str, ...]:
        del placement
        return buffers_of(cell)

    def processes(self, placement: Placement, line: Line) -> list[Process]:
        store = line.folder / f"store-{next(self._stores)}"
        command = [sys.executable, "-m", "shoal.bench.torch.rank", str(line.socket), self.name]
        return [
            Process(
                [*command, str(rank), str(placement.ranks), str(store)],
                {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
            )
            for rank in range(placement.ranks)
        ]

"""What passes between the launcher of a measuring job and its ranks.

There, on the command line: what to measure. Back, as marked lines of rank 0's output, which reaches
the launcher whatever host rank 0 is on: how far it is, and what came out.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from shoal.launch.output import Console, numbered

NO_TABLE = "none"  # in the place of a file's name, as tune/load.h has it
_MARK = b"shoal-tune "  # a library may print to standard output too


@dataclass(frozen=True)
class Spec:
    """What to measure."""

    collectives: list[str]
    sizes: list[int]  # bytes of the largest buffer
    rounds: int
    seconds: float

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> Spec:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Cell:
    """A collective at a size: the median microseconds of each of its algorithms."""

    collective: str
    up_to_bytes: int
    builtin: str  # what the built-in rules choose
    us: dict[str, float]
    rounds: int

    def ranking(self) -> list[str]:
        return sorted(self.us, key=lambda name: self.us[name])


@dataclass(frozen=True)
class Progress:
    text: str


@dataclass(frozen=True)
class OneNode:
    ranks: int


@dataclass(frozen=True)
class Measured:
    ranks: int
    node_ranks: int  # 1 where nodes have unequal numbers of ranks
    nodes: int
    hosts: list[str]
    network: str
    planned: int = 0  # cells; those that time did not suffice for are not in the list
    cells: list[Cell] = field(default_factory=list)


Message = Progress | OneNode | Measured
_KINDS: dict[str, type[Progress] | type[OneNode] | type[Measured]] = {
    kind.__name__: kind for kind in (Progress, OneNode, Measured)
}


def tell(message: Message) -> None:
    """Rank 0 to the launcher."""
    text = json.dumps([type(message).__name__, asdict(message)])
    sys.stdout.buffer.write(_MARK + text.encode() + b"\n")
    sys.stdout.buffer.flush()


def _decoded(line: bytes) -> Message:
    name, fields = json.loads(line[len(_MARK) :])
    values: dict[str, Any] = dict(fields)
    if "cells" in values:
        values["cells"] = [Cell(**cell) for cell in values["cells"]]
    return _KINDS[name](**values)


class Listener(Console):
    """Takes rank 0's messages out of the output of a job; everything else is for people."""

    def __init__(self) -> None:
        super().__init__(numbered, sys.stderr.buffer, sys.stderr.buffer)
        self.outcome: OneNode | Measured | None = None
        self._rest = b""

    def write(self, rank: int, stream: str, data: bytes) -> None:
        if (rank, stream) != (0, "stdout"):
            super().write(rank, stream, data)
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(_MARK):
                self._take(_decoded(line))
            else:
                super().write(rank, stream, line + b"\n")

    def _take(self, message: Message) -> None:
        if isinstance(message, Progress):
            self.say(f"shoal tune: {message.text}")
        else:
            self.outcome = message

"""Runs a program's functions check_*() one after the other on all ranks, and says how each went.

Many checks share one job, because `import torch` takes seconds. A check that fails on one rank
leaves the others in calls it no longer makes; so after each check the ranks tell one another over a
store of their own how it went, and after a failure they start again with a new process group.
"""

from __future__ import annotations

import faulthandler
import os
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

faulthandler.dump_traceback_later(float(os.environ["SHOAL_TEST_LIMIT_S"]), exit=True)

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

torch.set_num_threads(1)
warnings.simplefilter("ignore", FutureWarning)  # of calls that have new names in later versions

RANK = int(os.environ["RANK"])
SIZE = int(os.environ["WORLD_SIZE"])
# Of each operation, so that a check that has failed elsewhere ends here too.
TIMEOUT = timedelta(seconds=15)


class Skip(Exception):
    """A check cannot be made here; says why. On all ranks alike."""


class Ranks:
    """What the ranks need beside the process group under test."""

    def __init__(self) -> None:
        self.store = dist.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            SIZE,
            is_master=RANK == 0,
            timeout=timedelta(seconds=60),
        )
        self.count = 0

    def start(self) -> None:
        self.count += 1
        dist.init_process_group(
            os.environ.get("BACKEND", "shoal"),
            store=dist.PrefixStore(f"job {self.count}", self.store),
            rank=RANK,
            world_size=SIZE,
            timeout=TIMEOUT,
        )

    def agree(self, name: str, good: bool) -> bool:
        """True if it went well everywhere; waits for all ranks in any case."""
        self.store.set(f"{name} {RANK}", "ok" if good else "failed")
        answers = [self.store.get(f"{name} {rank}") for rank in range(SIZE)]
        return answers == [b"ok"] * SIZE

    def end(self) -> None:
        """Rank 0 serves the store: it leaves last."""
        self.store.set(f"end {RANK}", "")
        if RANK == 0:
            self.store.wait([f"end {rank}" for rank in range(SIZE)])


def run(names: dict[str, Any], only: list[str] | None = None) -> None:
    """`names`: the program's globals()."""
    checks: list[tuple[str, Callable[[], None]]] = [
        (name, check) for name, check in names.items() if name.startswith("check_")
    ]
    ranks = Ranks()
    ranks.start()
    for name, check in checks:
        if only and name not in only:
            continue
        text = "ok"
        try:
            check()
        except Skip as reason:
            text = f"skip {reason}"
        except BaseException:
            text = traceback.format_exc()[-3000:]
        print(f"\n=== {name}: {text}", flush=True)
        if not ranks.agree(name, text.startswith(("ok", "skip "))):
            if dist.is_initialized():
                dist.destroy_process_group()
            ranks.start()
    dist.destroy_process_group()
    ranks.end()


def throws(kind: type[BaseException], call: Callable[[], object], *words: str) -> str:
    """The message of what `call` raises, in which all of `words` are."""
    try:
        call()
    except kind as error:
        text = str(error)
        missing = [word for word in words if word not in text]
        assert not missing, f"{missing} not in: {text}"
        return text
    raise AssertionError(f"no {kind.__name__} was raised")

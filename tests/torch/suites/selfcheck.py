"""Tests of every outcome, to see that the runner tells them apart. They need no backend."""

from __future__ import annotations

import importlib
import os
import signal
import time
import unittest
from typing import Any

from tests.torch.suites.sources import INTERNAL


class Cases:
    rank: int

    def test_pass(self) -> None:
        pass

    def test_fail(self) -> None:
        if self.rank == 1:
            raise ValueError("rank 1 says no")

    def test_hang(self) -> None:
        if self.rank == 1:
            time.sleep(3600)

    def test_hang_deaf(self) -> None:
        """Does not heed SIGTERM either."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(3600)

    def test_crash(self) -> None:
        """Not of rank 0, which is the one torch looks at."""
        if self.rank == 1:
            os.kill(os.getpid(), signal.SIGSEGV)

    def test_skip(self) -> None:
        raise unittest.SkipTest("a reason")

    def test_skip_code(self) -> None:
        common = importlib.import_module(INTERNAL + "common_distributed")
        raise SystemExit(common.TEST_SKIPS["small_worldsize"].exit_code)

    def test_host_dies(self) -> None:
        if self.rank == 0:
            os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(3600)


def bases() -> tuple[Any, ...]:
    common = importlib.import_module(INTERNAL + "common_distributed")
    world = type(
        "World",
        (common.MultiProcessTestCase,),
        {"world_size": property(lambda self: int(os.environ["WORLD_SIZE"]))},
    )
    return (Cases, world)

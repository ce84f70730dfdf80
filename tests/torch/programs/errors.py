"""What goes wrong while all ranks live. Each check has a group of its own, which ends with it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from datetime import timedelta

import checks
import torch
import torch.distributed as dist
from checks import RANK, SIZE


def check_a_timeout_names_the_late_rank() -> None:
    group = dist.new_group(timeout=timedelta(seconds=1))
    if RANK != 1:
        started = time.monotonic()
        text = checks.throws(
            dist.DistBackendError,
            lambda: dist.all_reduce(torch.ones(1000), group=group),
            "Timeout", "all_reduce", "rank 1",
        )  # fmt: skip
        assert 0.9 < time.monotonic() - started < 6, (time.monotonic() - started, text)
        # the group has ended; later calls say so at once
        checks.throws(dist.DistBackendError, lambda: dist.barrier(group=group), "rank 1")
    dist.barrier()


def check_a_timeout_of_a_work_that_nobody_waits_for() -> None:
    group = dist.new_group(timeout=timedelta(seconds=1))
    if RANK == 0:
        future = dist.all_reduce(torch.ones(1000), group=group, async_op=True).get_future()
        checks.throws(Exception, future.wait, "Timeout", "rank")
        errors: list[BaseException] = []

        def look(future: torch.futures.Future[list[torch.Tensor]]) -> None:
            try:
                future.value()
            except BaseException as error:
                errors.append(error)

        future.then(look).wait()
        assert len(errors) == 1 and "Timeout" in str(errors[0]), errors
    dist.barrier()


def check_a_receive_that_nothing_comes_for() -> None:
    group = dist.new_group(timeout=timedelta(seconds=1))
    if RANK == 0:
        checks.throws(
            dist.DistBackendError, lambda: dist.recv(torch.empty(3), 1, group=group), "rank 1"
        )
    dist.barrier()


def check_ranks_that_call_different_things_are_told() -> None:
    group = dist.new_group(timeout=timedelta(seconds=10))
    x = torch.ones(1000 + RANK)
    text = checks.throws(dist.DistBackendError, lambda: dist.all_reduce(x, group=group), "1000")
    assert "1001" in text or "1002" in text, text
    group = dist.new_group(timeout=timedelta(seconds=10))
    call = dist.barrier if RANK == 0 else lambda group: dist.all_reduce(torch.ones(3), group=group)
    checks.throws(dist.DistBackendError, lambda: call(group=group), "barrier", "all_reduce")


def check_ctrl_c_ends_a_wait() -> None:
    group = dist.new_group(timeout=timedelta(seconds=60))
    if RANK == 0:
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        started = time.monotonic()
        checks.throws(KeyboardInterrupt, lambda: dist.all_reduce(torch.ones(9), group=group))
        assert time.monotonic() - started < 10
        dist.all_reduce(torch.ones(3))  # the other groups live on
    else:
        dist.all_reduce(torch.ones(3))
        # who calls later hears of it
        checks.throws(
            dist.DistBackendError, lambda: dist.all_reduce(torch.ones(9), group=group), "rank 0"
        )


def check_abort_ends_what_waits() -> None:
    group = dist.new_group(timeout=timedelta(seconds=60))
    if RANK == 0:
        timer = threading.Timer(0.5, group.abort)
        timer.start()
        started = time.monotonic()
        checks.throws(
            dist.DistBackendError, lambda: dist.all_reduce(torch.ones(9), group=group), "abort"
        )
        assert time.monotonic() - started < 10
        timer.join()
    dist.barrier()
    dist.all_reduce(torch.ones(3))


def check_a_step_after_an_error_of_an_uneven_exchange() -> None:
    """Sizes that do not fit: the receiver is told, and nobody hangs."""
    group = dist.new_group(timeout=timedelta(seconds=3))
    # Everybody sends 2 rows, and expects 2 of all, but the last rank expects 3 of rank 0.
    expected = [2] * SIZE
    if RANK == SIZE - 1:
        expected[0] = 3
    x, y = torch.ones(2 * SIZE, 1000), torch.empty(sum(expected), 1000)
    started = time.monotonic()
    try:
        dist.all_to_all_single(y, x, expected, [2] * SIZE, group=group)
    except dist.DistBackendError as error:
        assert "rank" in str(error), error
    else:
        assert RANK != SIZE - 1
    assert time.monotonic() - started < 10


if __name__ == "__main__":
    checks.run(globals(), sys.argv[1:])

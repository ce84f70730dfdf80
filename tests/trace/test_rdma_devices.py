"""Queues and queue pairs of a real program on real (software) devices, in the virtual machine:

tests/vm/run.sh -- python -m pytest tests/trace/test_rdma_devices.py
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator

import pytest

from shoal.trace import rdma
from shoal.trace.queues import Queue
from tests.trace.faults import rdma_hosts
from tests.trace.faults.processes import started, wait_until

PINGPONG = shutil.which("ibv_rc_pingpong")
START_S = 60.0  # in emulation
LOOK_S = 2.0

pytestmark = pytest.mark.skipif(
    bool(rdma_hosts.missing()) or PINGPONG is None, reason="needs tests/vm, and ibverbs-utils"
)


@pytest.fixture
def pids() -> Iterator[tuple[int, int]]:
    """A server over rxe0 and its client over rxe1, which never end."""
    assert PINGPONG is not None
    words = [PINGPONG, "-g", "1", "-n", "1000000000", "-d"]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(started([*words, "rxe0"]))
        time.sleep(LOOK_S)  # until it listens
        client = stack.enter_context(started([*words, "rxe1", "127.0.0.1"]))
        wait_until(lambda: _is_busy(server.pid), START_S, "messages go back and forth")
        yield server.pid, client.pid


def _queues(pid: int, kind: str) -> list[Queue]:
    return [one for one in rdma.observe([pid]).queues[pid] or () if one.kind == kind]


def _is_busy(pid: int) -> bool:
    return any(queue.produced > 0 for queue in _queues(pid, "completion"))


def test_what_has_completed_waits_in_the_queue_of_a_stopped_process(pids: tuple[int, int]) -> None:
    server, client = pids
    os.kill(server, signal.SIGSTOP)
    wait_until(lambda: _queues(server, "completion")[0].waiting > 0, LOOK_S * 5, "it waits")
    (before,) = _queues(server, "completion")
    time.sleep(LOOK_S)
    (after,) = _queues(server, "completion")
    # The client has had its answer and has sent one message, which the stopped server has not read.
    assert (after.consumed, after.entries) == (before.consumed, 512)
    assert 1 <= after.waiting <= 2 and after.number > 0, after
    (send,) = _queues(server, "send")
    assert send.waiting == 0 and send.number == rdma.observe([]).pairs[server][0].number
    assert rdma.observe([]).pairs[client][0].state == "RTS"
    os.kill(server, signal.SIGCONT)
    wait_until(lambda: _queues(server, "completion")[0].consumed != after.consumed, START_S,
               "it goes on")  # fmt: skip


def test_a_queue_pair_in_error_is_seen(pids: tuple[int, int]) -> None:
    server, client = pids
    os.kill(server, signal.SIGSTOP)
    assert rdma_hosts.break_queue_pairs(server) == 1
    pairs = rdma.observe([]).pairs
    assert [pair.state for pair in pairs[server]] == ["ERR"]
    assert [pair.state for pair in pairs[client]] == ["RTS"]
    # What had been posted to receive comes back, all of it.
    assert _queues(server, "completion")[0].waiting > 100

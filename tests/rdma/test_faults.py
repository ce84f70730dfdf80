"""Faults of links and of peers, and limits of the system: named, and in bounded time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import Hosts

from tests.python.test_collectives import SOAK
from tests.python.test_errors import KILLED

TRANSPORTS = pytest.mark.parametrize("transports", ["rc,self", "ud,self"])

# The cable of host b's device is pulled in the midst of all_reduces: its port of the bridge is set
# down.
CABLE = """
    import subprocess, sys, threading, time
    comm = shoal.init(timeout=40)
    x = comm.empty(1 << 18, "float32")
    def step():
        x[:] = comm.rank + 1
        comm.all_reduce(x)
        assert (x == 3).all()
    def cable(state):
        subprocess.run(["nsenter", "--net=/proc/1/ns/net", "ip", "link", "set", "port1", state],
                       check=True)
"""

# As of one host, but for a machine that is emulated: the launcher's SIGTERM comes before the last
# rank has found its words, and one that is between two calls says no operation.
KILL = (
    """
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
"""
    + KILLED
    + """
    assert seconds < 20, seconds
    assert f"rank {comm.size - 1} (" in text and "killed by signal 9" in text, text
    print("named", flush=True)
"""
)

FLAP = (
    CABLE
    + """
    step()
    comm.barrier()
    if comm.rank == 0:
        def pull():
            cable("down")
            time.sleep(1.5)
            cable("up")
        thread = threading.Thread(target=pull)
        thread.start()
    began, slowest = time.monotonic(), 0
    more = np.ones(1, "int32")
    while more[0]:
        start = time.monotonic()
        step()
        more[0] = time.monotonic() - began < 4
        comm.broadcast(more, root=0)
        slowest = max(slowest, time.monotonic() - start)
    assert slowest > 1, slowest  # it was down
    print("went on")
"""
)

CUT = (
    CABLE
    + """
    step()
    comm.barrier()
    began = time.monotonic()
    if comm.rank == 0:
        cable("down")
    try:
        while True:
            step()
    except shoal.Error as error:
        print("raised", type(error).__name__, error)
        assert time.monotonic() - began < 45
        # Whoever sees it first tells both: the other one, seen from there, cannot be reached.
        assert any(f"rank {r} (" in str(error) for r in range(2)), error
        assert "cannot be reached over the network" in str(error), error
        print("named")
    if comm.rank == 0:
        cable("up")
"""
)


def test_the_job_goes_on_after_a_link_was_down(hosts: Hosts) -> None:
    assert hosts.run(FLAP).out.count("went on") == 2


def test_a_link_that_stays_down_is_an_error_in_bounded_time(hosts: Hosts) -> None:
    assert hosts.run(CUT, limit_s=90).out.count("named") == 2


@TRANSPORTS
def test_results_are_right_where_packets_are_lost(
    hosts: Hosts, lossy_links: None, transports: str
) -> None:
    result = hosts.run(SOAK, "60", limit_s=90, UCX_TLS=transports)
    assert result.out.count("agreed 60") == 2


@TRANSPORTS
def test_a_killed_peer_is_named_on_every_rank(hosts: Hosts, transports: str) -> None:
    result = hosts.run(KILL, ranks_each=2, expect=137, UCX_TLS=transports)
    assert result.out.count("named") == 3, result.out + result.err


# Each rank meets the limit by itself: nothing is exchanged before.
REFUSED = """
    try:
        shoal.init(timeout=30)
    except shoal.TransportError as error:
        print("refused", error, flush=True)
"""


def test_too_little_locked_memory_is_named(hosts: Hosts) -> None:
    result = hosts.run(REFUSED, network="ucx", SHOAL_TEST_MEMLOCK_BYTES="65536")
    assert result.out.count("may lock 64 KiB of memory") == 2
    assert result.out.count("ulimit -l unlimited") == 2


@pytest.mark.parametrize("limit", ["hca_handle=0", "hca_object=4"])
def test_the_limit_of_a_cgroup_is_named(
    hosts: Hosts, cgroup: Callable[[str], str], limit: str
) -> None:
    name = cgroup(f"rxe0 {limit}\nrxe1 {limit}")
    result = hosts.run(REFUSED, network="ucx", SHOAL_TEST_CGROUP=name)
    for device in ("rxe0", "rxe1"):
        assert f"{name}/rdma.max allows {limit} of {device}, in use now:" in result.out

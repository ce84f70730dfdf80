"""Who waits long sleeps on UCX's event descriptor, and is woken each time."""

from __future__ import annotations

import pytest
from conftest import Hosts

# Rank 1 is late 40 times, by up to 50 ms: about as long as it takes to fall asleep, so that
# messages come before, while and after the other one arms its event descriptor. A wake-up that was
# lost would cost until the next tick, or for ever.
LATE = """
    import time
    comm = shoal.init(timeout=60)
    x = comm.empty(64, "float32")
    for _ in range(3):
        comm.all_reduce(x)
    late = np.random.default_rng(7).random(40) * 0.05
    waits = []
    for delay in late:
        if comm.rank == 1:
            time.sleep(delay)
        began = time.monotonic()
        comm.all_reduce(x)
        waits.append(time.monotonic() - began - delay)
    if comm.rank == 0:
        waits.sort()
        print("median", waits[20], "worst", waits[-1])
        assert waits[-1] < 2, waits
    comm.barrier()
    began, cpu = time.monotonic(), time.process_time()
    if comm.rank == 1:
        time.sleep(4)
    comm.all_reduce(x)
    if comm.rank == 0:
        share = (time.process_time() - cpu) / (time.monotonic() - began)
        print("share of a core", share)
        assert share < 0.5, share  # who never sleeps has 1
    comm.barrier()
    print("woken")
"""


@pytest.mark.parametrize("transports", ["", "ud,self"])
def test_a_rank_that_waits_sleeps_and_is_woken(hosts: Hosts, transports: str) -> None:
    variables = {"UCX_TLS": transports} if transports else {}
    assert hosts.run(LATE, **variables).out.count("woken") == 2

"""Puts over RC: what goes over the wire for them, and how often a collective waits for it.

Microseconds mean nothing in software emulation. But packets can be counted by their opcodes, and on
links with a long delay a call takes as many delays as it has messages that wait for one another.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from conftest import Hosts, run

LINKS = ("h0", "h1")
OPCODES = {
    "send": (0x00, 0x01, 0x02, 0x04),
    "write": (0x06, 0x07, 0x08, 0x0A),
    "read request": (0x0C,),
    "read response": (0x0D, 0x0E, 0x0F, 0x10),
}
DELAY_MS = 40


@pytest.fixture
def counted_packets() -> Iterator[None]:
    """tc counts what leaves by h0, each opcode of RoCE v2 by a filter of its own: it lies 28 bytes
    from the beginning of the IP header."""
    for module in ("sch_ingress", "cls_u32", "act_gact"):
        run("modprobe", module)
    run("tc", "qdisc", "add", "dev", "h0", "clsact")
    opcodes = [opcode for kind in OPCODES.values() for opcode in kind]
    add = ("tc", "filter", "add", "dev", "h0", "egress")
    for place, opcode in enumerate(opcodes, start=1):  # shown in the order of "pref"
        run(*add, "pref", str(place), "protocol", "ip", "u32",
            "match", "u8", hex(opcode), "0xff", "at", "28", "action", "continue")  # fmt: skip
    yield
    run("tc", "qdisc", "del", "dev", "h0", "clsact")


@pytest.fixture
def long_links() -> Iterator[None]:
    run("modprobe", "sch_netem")
    for link in LINKS:
        run("tc", "qdisc", "add", "dev", link, "root", "netem", "delay", f"{DELAY_MS}ms",
            "limit", "10000")  # fmt: skip
    yield
    for link in LINKS:
        run("tc", "qdisc", "del", "dev", link, "root")


CALLS = """
    import json, subprocess, sys, time
    import numpy as np
    comm = shoal.init(timeout=60)
    x, y = comm.empty(65536, "float32"), comm.empty(65536, "float32")
    def call(collective, kib):
        part = x[: kib * 256]
        part[:] = comm.rank + 1
        if collective == "all_reduce":
            out = comm.all_reduce(part, out=y[: part.size])
            assert (out == 3).all()
        elif collective == "reduce_scatter":
            assert (comm.reduce_scatter(part, out=y[: part.size // 2]) == 3).all()
        else:
            out = comm.all_gather(x[: part.size // 2], out=y[: part.size])
            assert (out == np.repeat([1.0, 2.0], part.size // 2)).all()
"""

COUNT = (
    CALLS
    + """
    def packets():
        command = ["nsenter", "--net=/proc/1/ns/net", "tc", "-s", "filter", "show", "dev", "h0"]
        shown = subprocess.run([*command, "egress"], check=True, capture_output=True, text=True)
        return [int(line.split()[3]) for line in shown.stdout.splitlines()
                if line.strip().startswith("Sent")]
    N = 10
    for name in ("ring", "ring_put"):
        comm._use_algorithm("all_reduce", name)
        for _ in range(3):
            call("all_reduce", 64)
        comm.barrier()
        before = packets() if comm.rank == 0 else []
        comm.barrier()
        for _ in range(N):
            call("all_reduce", 64)
        comm.barrier()
        if comm.rank == 0:
            counts = [(b - a) / N for a, b in zip(before, packets())]
            print("packets", json.dumps([name, counts]))
        comm.barrier()
"""
)


# 64 KiB over two ranks: two rounds of 32 KiB, 8 packets at least, each a rendezvous or a put.
def test_a_put_asks_for_nothing(hosts: Hosts, counted_packets: None) -> None:
    result = hosts.run(COUNT)
    counted = {}
    for line in result.lines(0):
        name, counts = json.loads(line.removeprefix("packets "))
        parts = iter(counts)
        counted[name] = {kind: sum(next(parts) for _ in of) for kind, of in OPCODES.items()}
    print(counted)
    ring, put = counted["ring"], counted["ring_put"]
    assert ring["read request"] >= 2 and ring["read response"] >= 16 and ring["write"] < 1, ring
    assert put["read request"] < 1 and put["read response"] < 1, put
    assert put["write"] == pytest.approx(ring["read response"], abs=2), (ring, put)
    # Two rounds: a request and a release each, against a flag each and one offer.
    assert put["send"] < ring["send"], (ring, put)


DELAYS = (
    CALLS
    + """
    for collective, names in json.loads(sys.argv[2]).items():
        times = {name: [] for name in names}
        for n in range(4):
            for name in names:
                comm._use_algorithm(collective, name)
                comm.barrier()
                begin = time.perf_counter()
                call(collective, 64)
                ms = (time.perf_counter() - begin) * 1000
                if n > 0:
                    times[name].append(ms / float(sys.argv[1]))
        print("delays", json.dumps([collective, {k: min(v) for k, v in times.items()}]))
"""
)


# What waits for what: a rendezvous is a request, a READ and its response in each round, a put one
# message; before the first there is the offer, and at the end each waits until it has been told
# that its last message has arrived.
def test_a_put_saves_a_round_trip_a_round(hosts: Hosts, long_links: None) -> None:
    candidates = {
        "all_reduce": ["ring", "recursive_doubling", "rabenseifner", "ring_put"],
        "all_gather": ["ring", "bruck", "ring_put"],
        "reduce_scatter": ["ring", "pairwise", "ring_put"],
    }
    result = hosts.run(DELAYS, str(DELAY_MS), json.dumps(candidates))
    delays = dict(json.loads(line.removeprefix("delays ")) for line in result.lines(0))
    print(delays)
    two_sided, put = delays["all_reduce"]["ring"], delays["all_reduce"]["ring_put"]
    assert put < two_sided - 2, delays

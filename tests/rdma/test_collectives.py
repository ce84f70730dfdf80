"""Collectives between two hosts over verbs: right, and of pool memory without a copy."""

from __future__ import annotations

import pathlib

import pytest
from conftest import Hosts, run

from tests.python.test_collectives import SOAK

# Which network, devices and transports it was: explain() of the world.
SAY_HOW = """
    print("over", comm.explain("all_reduce", 1))
"""


# Nothing but auto, and no variable of UCX: what a user gets who only has the devices.
def test_auto_takes_ucx_and_rdma_devices(hosts: Hosts) -> None:
    result = hosts.run(SOAK + SAY_HOW, "100")
    assert result.out.count("agreed 100") == 2
    for rank, device in ((0, "rxe0:1"), (1, "rxe1:1")):
        said = next(line for line in result.lines(rank) if line.startswith("over"))
        assert "ucx 1." in said and f"rc_verbs/{device}" in said and "tcp/" not in said, said
        assert "an RDMA device, and a UCX with verbs" in said, said


def test_two_ranks_on_each_host(hosts: Hosts) -> None:
    assert hosts.run(SOAK, "100", ranks_each=2, limit_s=90).out.count("agreed 100") == 4


def test_over_ud(hosts: Hosts) -> None:
    result = hosts.run(SOAK + SAY_HOW, "100", ranks_each=2, limit_s=90, UCX_TLS="ud,self")
    assert result.out.count("agreed 100") == 4
    assert "ud_verbs/rxe0:1" in result.out and "rc_verbs" not in result.out


# Each rank may use both devices, and the default settings of the transports.
def test_both_devices_at_once(hosts: Hosts) -> None:
    result = hosts.run(SOAK + SAY_HOW, "60", SHOAL_TEST_ALL_DEVICES="1", limit_s=90)
    assert result.out.count("agreed 60") == 2
    assert result.out.count("rxe0:1") >= 2 and result.out.count("rxe1:1") >= 2


# The links count what crosses them, tc what of it is data of RDMA READs, the kernel's probe each
# registration of memory.
ZERO_COPY = """
    import pathlib
    comm = shoal.init(timeout=60)
    N, CALLS = 4 << 20, 8
    x = comm.empty(N // 4, "float32")

    def sent():
        return [int(pathlib.Path(f"/sys/class/net/h{i}/statistics/tx_bytes").read_text())
                for i in (0, 1)]
    def registrations():
        text = pathlib.Path("/sys/kernel/tracing/kprobe_profile").read_text()
        return int(text.split()[text.split().index("shoal_registers") + 1])

    def call():
        x[:] = comm.rank + 1
        comm.all_reduce(x)
        assert (x == 3).all()
    for _ in range(2):
        call()
    comm.barrier()
    links, known = sent(), registrations()
    comm.barrier()
    for _ in range(CALLS):
        call()
    comm.barrier()
    links, known = [b - a for a, b in zip(links, sent())], registrations() - known
    # Sent memory is known by the pool's registration. UCX 1.13 registers what a rendezvous is
    # received into for each message: two of an all_reduce of this size, on each rank.
    received = 2 * comm.size * CALLS
    assert known <= received, f"{known} registrations in {CALLS} calls"
    floor = N * CALLS  # two ranks: whatever the algorithm, each sends N bytes
    for link in links:
        assert floor <= link <= 1.05 * floor, (links, floor)
    print("floor", floor, "links", links)
"""


@pytest.fixture
def counted_registrations() -> object:
    """The kernel counts registrations of memory with rxe; reading the count ends at the test."""
    tracing = pathlib.Path("/sys/kernel/tracing")
    (tracing / "kprobe_events").write_text("p:shoal_registers rxe_reg_user_mr")
    (tracing / "events/kprobes/shoal_registers/enable").write_text("1")
    yield
    (tracing / "events/kprobes/shoal_registers/enable").write_text("0")
    (tracing / "kprobe_events").write_text("")


READ_RESPONSES = (0x0D, 0x0E, 0x0F, 0x10)  # opcodes: first, middle, last, only


@pytest.fixture
def counted_reads() -> object:
    """tc counts the packets of h0 and h1 that carry data for an RDMA READ: 28 bytes from the
    beginning of the IP header lies the opcode of RoCE v2."""
    for module in ("sch_ingress", "cls_u32", "act_gact"):
        run("modprobe", module)
    for link in ("h0", "h1"):
        run("tc", "qdisc", "add", "dev", link, "clsact")
        for opcode in READ_RESPONSES:
            run("tc", "filter", "add", "dev", link, "egress", "protocol", "ip", "u32",
                "match", "u8", hex(opcode), "0xff", "at", "28", "action", "continue")  # fmt: skip
    yield
    for link in ("h0", "h1"):
        run("tc", "qdisc", "del", "dev", link, "clsact")


def read_bytes(link: str) -> int:
    """Sent by the link as data of RDMA READs, headers included."""
    shown = run("tc", "-s", "filter", "show", "dev", link, "egress").splitlines()
    return sum(int(line.split()[1]) for line in shown if line.strip().startswith("Sent"))


def test_pool_memory_is_read_in_place(
    hosts: Hosts, counted_registrations: None, counted_reads: None
) -> None:
    before = [read_bytes(link) for link in ("h0", "h1")]
    result = hosts.run(ZERO_COPY)
    assert result.out.count("floor") == 2
    floor = int(result.lines(0)[0].split()[1])
    for link, start in zip(("h0", "h1"), before, strict=True):
        # Ten calls, warm-up included; the count is of the whole job.
        assert read_bytes(link) - start >= floor * 10 // 8, f"{link}: not by RDMA READ"

"""What is read of RDMA devices, from files and answers as they are on a machine that has some."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import os
import pathlib
import threading

import pytest

from shoal.trace import rdma
from shoal.trace.rdma import Limit, QueuePair

PAIRS = json.loads("""[
{"ifindex":0,"ifname":"rxe0","port":1,"lqpn":17,"rqpn":18,"type":"RC","state":"RTS","rq-psn":7739163,
 "sq-psn":6945927,"path-mig-state":"MIGRATED","pdn":1,"pid":99999999,"comm":"ibv_rc_pingpong"},
{"ifindex":0,"ifname":"rxe0","port":1,"lqpn":1,"type":"GSI","state":"RTS","sq-psn":0,"comm":"ib_core"}]
""")
COMPLETION = json.loads("""[
{"ifindex":0,"ifname":"rxe0","cqn":0,"cqe":1023,"users":2,"poll-ctx":"WORKQUEUE","comm":"ib_core"},
{"ifindex":0,"ifname":"rxe0","cqn":1,"cqe":511,"users":2,"ctxn":0,"pid":99999999,"comm":"x"}]""")


def test_what_the_kernel_has_for_itself_belongs_to_nobody() -> None:
    assert rdma.parse_pairs(PAIRS) == {99999999: (QueuePair("rxe0", 1, 17, 18, "RC", "RTS"),)}
    assert rdma.parse_completion(COMPLETION) == {99999999: {"rxe0": [(1, 512)]}}


def test_what_a_thread_has_made_belongs_to_its_process() -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        number = pool.submit(threading.get_native_id).result()
        assert number != os.getpid()
        rows = [{**row, "pid": number} for row in PAIRS if "pid" in row]
        assert list(rdma.parse_pairs(rows)) == [os.getpid()]
        rows = [{**row, "pid": number} for row in COMPLETION if "pid" in row]
        assert list(rdma.parse_completion(rows)) == [os.getpid()]


def test_limits_are_those_that_are_set(tmp_path: pathlib.Path) -> None:
    (tmp_path / "rdma.max").write_text("rxe0 hca_handle=2 hca_object=max\nrxe1 hca_handle=max\n")
    (tmp_path / "rdma.current").write_text("rxe0 hca_handle=2 hca_object=20\n")
    assert list(rdma.limits_in(tmp_path, "/jobs/a")) == [
        Limit("/jobs/a", "rxe0", "hca_handle", 2, 2)
    ]


@pytest.fixture
def device(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A device mlx5_0 whose port is the interface eth0."""
    port = tmp_path / "infiniband/mlx5_0/ports/1"
    for folder in (port / "counters", port / "hw_counters", port / "gid_attrs/ndevs",
                   tmp_path / "net/eth0"):  # fmt: skip
        folder.mkdir(parents=True)
    (port / "state").write_text("4: ACTIVE\n")
    (port / "phys_state").write_text("5: LinkUp\n")
    (port / "counters/port_xmit_wait").write_text("7\n")  # grows in health, too
    (port / "hw_counters/out_of_sequence").write_text("12\n")
    (port / "hw_counters/lifespan").write_text("10\n")
    (port / "gid_attrs/ndevs/0").write_text("eth0\n")
    (tmp_path / "net/eth0/flags").write_text("0x1003\n")
    (tmp_path / "net/eth0/carrier").write_text("1\n")
    monkeypatch.setattr(rdma, "DEVICES", tmp_path / "infiniband")
    monkeypatch.setattr(rdma, "NETWORK", tmp_path / "net")
    return tmp_path


def test_a_port_is_read_with_its_interface_and_counters(device: pathlib.Path) -> None:
    (port,) = rdma.read_ports()
    assert (port.name, port.state, port.physical) == ("mlx5_0/1", "ACTIVE", "LinkUp")
    assert (port.interface, port.up, port.carrier) == ("eth0", True, True)
    assert port.counters == {"out_of_sequence": 12}


def test_an_interface_that_is_down_is_seen(device: pathlib.Path) -> None:
    (device / "net/eth0/flags").write_text("0x1002\n")
    (device / "infiniband/mlx5_0/ports/1/state").write_text("1: DOWN\n")
    (port,) = rdma.read_ports()
    assert not port.up and port.state == "DOWN"


def test_an_interface_is_that_of_the_first_address_that_has_one(device: pathlib.Path) -> None:
    """Of a table of 1024 addresses its begin is looked at, however long it is."""
    names = device / "infiniband/mlx5_0/ports/1/gid_attrs/ndevs"
    (names / "0").write_text("")
    (names / "2").write_text("eth0\n")
    assert rdma.read_ports()[0].interface == "eth0"
    (names / "2").rename(names / "1000")
    assert rdma.read_ports()[0].interface == ""


def test_samples_are_taken_at_intervals_and_not_for_ever(
    device: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(0, 100_000_000)
    monkeypatch.setattr("time.monotonic_ns", lambda: next(clock))
    history = rdma.History()
    for _ in range(1000):
        history.look()
    times = [sample.t_ns for sample in history.samples()]
    assert len(times) == 64 and times[-1] == 99_000_000_000
    assert {b - a for a, b in zip(times, times[1:], strict=False)} == {1_000_000_000}


def test_without_devices_nothing_is_asked(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rdma, "DEVICES", tmp_path / "none")
    assert rdma.observe([1]) == rdma.Rdma()
    history = rdma.History()
    history.look()
    assert history.samples() == ()

"""What the kernel says of RDMA: the ports of this machine's devices with their counters, the queue
pairs and completion queues of a process, and the limits that its cgroups set."""

from __future__ import annotations

import functools
import json
import pathlib
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from shoal.trace import cgroups
from shoal.trace.cgroups import read_text
from shoal.trace.queues import Queue, numbered, read_queues

DEVICES = pathlib.Path("/sys/class/infiniband")
NETWORK = pathlib.Path("/sys/class/net")
# Counters of rxe, and of mlx5 and others that name theirs as it does.
REFUSES = ("send_rnr_err", "out_of_buffer")  # had no buffer for what came
REFUSED = ("rcvd_rnr_err", "retry_rnr_exceeded_err", "rnr_nak_retry_err")  # its peer had none
# Of a port, in the order in which they tell most: what it sent was lost, or its acknowledgement.
LOST = (
    "retry_exceeded_err", "rcvd_seq_err", "packet_seq_err", "completer_retry_err",
    "local_ack_timeout_err", "implied_nak_seq_err", "out_of_seq_request", "out_of_sequence",
    "duplicate_request",
)  # fmt: skip
CONGESTED = ("rp_cnp_handled", "np_ecn_marked_roce_packets", "np_cnp_sent", "rx_ecn_marked_pkts")
COUNTERS = (*REFUSES, *REFUSED, *LOST, *CONGESTED)

_ASK_S = 5.0  # the tool `rdma`
_KEPT, _APART_S = 64, 1.0  # samples of the ports
_UP = 0x1  # of an interface's flags
_GIDS = 16  # that are looked at: the table has up to 1024, and is filled from its begin


@dataclass(frozen=True)
class Port:
    """One port of a device at one moment."""

    device: str
    number: int
    state: str  # "ACTIVE", "DOWN", "INIT", ...
    physical: str  # "LinkUp", "Disabled", "Polling", ...
    interface: str = ""  # the network interface it sends by, where it is one of Ethernet
    up: bool = True  # that interface has been set up
    carrier: bool = True  # and has a link to somewhere
    counters: dict[str, int] = field(default_factory=dict)  # events, in all

    @property
    def name(self) -> str:
        return f"{self.device}/{self.number}"


@dataclass(frozen=True)
class QueuePair:
    device: str
    port: int
    number: int
    peer: int  # the number that the other side's has; 0: not connected
    type: str  # "RC", "UD", ...
    state: str  # "RESET", "INIT", "RTR", "RTS", "SQD", "SQE", "ERR"


@dataclass(frozen=True)
class Limit:
    """Of what a cgroup lets its processes have of a device."""

    path: str
    device: str
    what: str  # "hca_handle", "hca_object"
    used: int
    most: int


@dataclass(frozen=True)
class Sample:
    """The ports at one moment."""

    t_ns: int
    ports: tuple[Port, ...]


@dataclass(frozen=True)
class Rdma:
    """All of it, at one moment. Empty where there are no devices."""

    ports: tuple[Port, ...] = ()
    pairs: dict[int, tuple[QueuePair, ...]] = field(default_factory=dict)  # by pid
    queues: dict[int, tuple[Queue, ...] | None] = field(default_factory=dict)  # None: not allowed
    limits: dict[int, tuple[Limit, ...]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def _word(text: str) -> str:
    """ "4: ACTIVE" -> "ACTIVE"."""
    return text.partition(":")[2].strip() or "?"


def _counters(port: pathlib.Path) -> dict[str, int]:
    found = {}
    for folder in ("counters", "hw_counters"):  # of the port, and of the device's maker
        for file in (port / folder).glob("*"):
            if file.name in COUNTERS and (text := read_text(file).strip()).isdigit():
                found[file.name] = int(text)
    return found


def _interface(port: pathlib.Path) -> tuple[str, bool, bool]:
    """Name, up, carrier of the interface of its first address."""
    names = (read_text(port / f"gid_attrs/ndevs/{index}").strip() for index in range(_GIDS))
    name = next((one for one in names if one), "")
    flags = read_text(NETWORK / name / "flags").strip() if name else ""
    if not flags:  # none, or in another network namespace
        return name, True, True
    return name, bool(int(flags, 16) & _UP), read_text(NETWORK / name / "carrier").strip() != "0"


def read_ports() -> tuple[Port, ...]:
    ports = []
    for folder in sorted(DEVICES.glob("*/ports/*")):
        interface, up, carrier = _interface(folder)
        ports.append(
            Port(
                device=folder.parts[-3],
                number=int(folder.name),
                state=_word(read_text(folder / "state")),
                physical=_word(read_text(folder / "phys_state")),
                interface=interface,
                up=up,
                carrier=carrier,
                counters=_counters(folder),
            )
        )
    return tuple(ports)


def has_devices() -> bool:
    return DEVICES.is_dir() and any(DEVICES.iterdir())


class History:
    """The ports as they were during the last minute: what is sent again is sent again only
    after a second or more, and between two moments some tens of milliseconds apart nothing may be
    counted. One thread."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []
        self._enabled = has_devices()

    def look(self) -> None:
        """Takes a sample if it is time to."""
        now = time.monotonic_ns()
        if not self._enabled:
            return
        if self._samples and now - self._samples[-1].t_ns < _APART_S * 1e9:
            return
        self._samples = [*self._samples[-(_KEPT - 1) :], Sample(now, read_ports())]

    def samples(self) -> tuple[Sample, ...]:
        return tuple(self._samples)


# ---- queue pairs and completion queues


@functools.cache
def _tool() -> str | None:
    return shutil.which("rdma") or shutil.which("rdma", path="/usr/sbin:/sbin")


def _ask(what: str) -> list[dict[str, Any]]:
    """Raises OSError where there is no answer."""
    tool = _tool()
    if tool is None:
        raise OSError("the tool `rdma` is not installed; install iproute2")
    try:
        done = subprocess.run(
            [tool, "-j", "-d", "resource", "show", what],
            capture_output=True, text=True, timeout=_ASK_S, check=True,
        )  # fmt: skip
        rows = json.loads(done.stdout or "[]")
    except (subprocess.SubprocessError, json.JSONDecodeError) as error:
        raise OSError(f"rdma resource show {what}: {error}") from error
    return [row for row in rows if isinstance(row, dict)]


def process_of(tid: int) -> int:
    """The kernel's `pid` is the thread that made it: of UCX, often not the main one."""
    for line in read_text(pathlib.Path(f"/proc/{tid}/status")).splitlines():
        if line.startswith("Tgid:"):
            return int(line.split()[1])
    return tid


def parse_pairs(rows: Iterable[dict[str, Any]]) -> dict[int, tuple[QueuePair, ...]]:
    """By pid. Those of the kernel itself have none."""
    pairs: dict[int, list[QueuePair]] = {}
    for row in rows:
        if "pid" in row and "lqpn" in row:
            pairs.setdefault(process_of(row["pid"]), []).append(
                QueuePair(row["ifname"], row.get("port", 1), row["lqpn"], row.get("rqpn", 0),
                          row.get("type", "?"), row.get("state", "?"))
            )  # fmt: skip
    return {pid: tuple(found) for pid, found in pairs.items()}


def numbers(pairs: Iterable[QueuePair]) -> dict[str, list[int]]:
    """By device."""
    found: dict[str, list[int]] = {}
    for pair in pairs:
        found.setdefault(pair.device, []).append(pair.number)
    return found


def parse_completion(rows: Iterable[dict[str, Any]]) -> dict[int, dict[str, list[tuple[int, int]]]]:
    """Completion queues, (number, entries), by pid and device."""
    queues: dict[int, dict[str, list[tuple[int, int]]]] = {}
    for row in rows:
        if "pid" in row and "cqn" in row:
            mine = queues.setdefault(process_of(row["pid"]), {}).setdefault(row["ifname"], [])
            mine.append((row["cqn"], row.get("cqe", 0) + 1))
    return queues


@functools.lru_cache(maxsize=2)
def _completion_queues(
    pairs: tuple[tuple[int, tuple[QueuePair, ...]], ...],
) -> dict[int, dict[str, list[tuple[int, int]]]]:
    """A process makes them before its queue pairs: while these are the same, they are."""
    return parse_completion(_ask("cq"))


# ---- cgroups


def _amounts(path: pathlib.Path) -> Iterator[tuple[str, str, str]]:
    """(device, what, amount) of "rxe0 hca_handle=1 hca_object=max" and more such lines."""
    for line in read_text(path).splitlines():
        device, *pairs = line.split()
        for pair in pairs:
            what, _, amount = pair.partition("=")
            yield device, what, amount


def limits_in(folder: pathlib.Path, name: str) -> Iterator[Limit]:
    used = {(device, what): amount for device, what, amount in _amounts(folder / "rdma.current")}
    for device, what, most in _amounts(folder / "rdma.max"):
        now = used.get((device, what), "0")
        if most.isdigit() and now.isdigit():
            yield Limit(name, device, what, int(now), int(most))


def read_limits(pid: int) -> tuple[Limit, ...]:
    found = cgroups.folders(pid, ("", "rdma"))
    return tuple(limit for _, folder, path in found for limit in limits_in(folder, path))


def observe(pids: Iterable[int]) -> Rdma:
    if not has_devices():
        return Rdma()
    missing = []
    pairs: dict[int, tuple[QueuePair, ...]] = {}
    completion: dict[int, dict[str, list[tuple[int, int]]]] = {}
    try:
        pairs = parse_pairs(_ask("qp"))
        completion = _completion_queues(tuple(pairs.items()))
    except OSError as error:
        missing.append(f"queue pairs and their states: {error}")
    queues = {}
    for pid in pids:
        mine = numbers(pairs.get(pid, ()))
        found = read_queues(pid, mine)
        queues[pid] = found and numbered(found, completion.get(pid, {}), mine)
    if None in queues.values():
        missing.append("completion queues: no right to trace the ranks; run as their user or root")
    return Rdma(read_ports(), pairs, queues, {pid: read_limits(pid) for pid in pids},
                tuple(missing))  # fmt: skip

"""shoal-tracer (bpf/) against workloads whose truth is known: what they do N times is counted as N.

Needs root, and the tracer built (SHOAL_TRACER names another one than that of the package or of
build/release). The same tests run inside a VM with another kernel:
tests/vm/run.sh -n 0 -t 600 -- python -m pytest tests/trace/test_tracer_binary.py
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib.util
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from typing import IO, Any

import pytest

from tests.trace.faults import groups
from tests.trace.tracer_process import (
    HERE,
    LIMIT_S,
    ROOT,
    Line,
    Tracer,
    Workload,
    find_tracer,
    two_namespaces,
)

FOUND = find_tracer()
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the tracer's programs need root"),
    pytest.mark.skipif(
        FOUND is None, reason="shoal-tracer is not built: CMake says what is missing"
    ),
]
LONG_MS = 4000  # two samples fit into it, also in a VM in software emulation
TRACER = FOUND or pathlib.Path("shoal-tracer")


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """workload and libucp.so, compiled."""
    folder = tmp_path_factory.mktemp("programs")
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("gcc-12")
    assert compiler, "no C compiler"
    flags = [compiler, "-O1", "-Wall", "-Wextra", "-Werror"]
    library = folder / "libucp.so"
    subprocess.run([*flags, "-shared", "-fPIC", HERE / "fake_ucp.c", "-o", library], check=True)
    subprocess.run(
        [*flags, HERE / "workload.c", "-o", folder / "workload", "-pthread", library,
         f"-Wl,-rpath,{folder}"],
        check=True,
    )  # fmt: skip
    return folder


@pytest.fixture
def workload(programs: pathlib.Path) -> Iterator[Workload]:
    process = Workload(programs / "workload")
    yield process
    process.end()


def growth(before: Line, after: Line, field: str) -> int:
    return int(after[field]) - int(before[field])


# --- the beginning and the end ------------------------------------------------------------------


def test_every_program_attaches(workload: Workload) -> None:
    with Tracer(TRACER, "--syscalls", "--bytes", pids=(workload.pid,)) as tracer:
        programs = tracer.hello["programs"]
        assert all(how.startswith("attached") for how in programs.values()), programs
        assert {"sched_switch", "signal_generate", "tcp_retransmit_skb", "sys_enter", "bytes",
                "page_fault_user"} <= programs.keys()  # fmt: skip
        assert tracer.hello["missing"] == []
        assert tracer.end() == 0


def test_without_privilege_it_says_what_is_missing() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own cannot be entered by others
        os.chmod(folder, 0o755)
        copy = shutil.copy(TRACER, folder)
        done = subprocess.run(
            [copy, "--pid", "1", "--ucx", "libucp.so"], user=65534, group=65534, extra_groups=[],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S,
        )  # fmt: skip
    assert done.returncode == 3
    assert '"type":"hello"' in done.stdout
    missing = json.loads(done.stdout)["missing"]
    assert len(missing) == 5
    for subject in missing:
        assert "CAP_BPF and CAP_PERFMON" in subject["why"]
        assert "setcap cap_bpf,cap_perfmon" in subject["do"]
        assert subject["what"] and subject["without"]
    assert "CAP_SYS_ADMIN" in missing[-1]["why"]


@pytest.mark.parametrize("way", ["quit", "end of input", "SIGTERM"])
def test_it_ends_when_told(workload: Workload, way: str) -> None:
    with Tracer(TRACER, pids=(workload.pid,)) as tracer:
        tracer.sample()
        if way == "quit":
            tracer.tell("quit")
        elif way == "end of input":
            assert tracer.process.stdin is not None
            tracer.process.stdin.close()
        else:
            tracer.process.terminate()
        assert tracer.process.wait(LIMIT_S) == 0


def test_it_ends_with_its_parent(workload: Workload, tmp_path: pathlib.Path) -> None:
    # Its input stays open (this test holds the other end), so that only the death can end it.
    read_end, write_end = os.pipe()
    parent = subprocess.Popen(
        [sys.executable, "-c",
         "import subprocess, sys, time\n"
         "child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)\n"
         "child.stdout.readline()\n"
         "print(child.pid, flush=True)\n"
         "time.sleep(1000)",
         str(TRACER), "--pid", str(workload.pid)],
        stdin=read_end, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    end = time.monotonic() + LIMIT_S
    while pathlib.Path(f"/proc/{pid}/exe").exists():
        assert time.monotonic() < end, "it has outlived its parent"
        time.sleep(0.05)
    os.close(read_end)
    os.close(write_end)


def test_wrong_use_is_refused() -> None:
    for arguments in (["--interval-ms", "0"], ["--pid", "x"], ["--nonsense"], ["word"]):
        done = subprocess.run([TRACER, *arguments], capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr, arguments


def test_a_process_can_be_added(workload: Workload) -> None:
    with Tracer(TRACER) as tracer:
        assert tracer.sample()["threads"] == []
        tracer.tell("nonsense")
        tracer.tell(f"pid {workload.pid}")
        tracer.until(lambda line: line.get("threads"))
        assert tracer.thread(workload.pid)["comm"] == "workload"


def test_a_reader_that_waits_loses_nothing(workload: Workload) -> None:
    """Lines that do not fit into the pipe are kept, and the last one comes, too."""
    process = subprocess.Popen(
        [TRACER, "--pid", str(workload.pid), "--interval-ms", "10"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)  # six lines
    end = time.monotonic() + LIMIT_S
    while unread(process.stdout) < 3000:
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(1)
    out, _ = process.communicate("quit\n", timeout=LIMIT_S)
    samples = [json.loads(line) for line in out.splitlines()][1:]
    assert len(samples) > 12 and samples[-1]["drops"] == 0
    assert all(a["t_ns"] < b["t_ns"] for a, b in itertools.pairwise(samples))


def unread(pipe: IO[str]) -> int:
    answer = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


# --- threads ------------------------------------------------------------------------------------


def test_a_thread_that_slept_before_we_came(workload: Workload) -> None:
    before = time.monotonic_ns()
    with Tracer(TRACER, pids=(workload.pid,)) as tracer:
        sample = tracer.sample()
        thread = sample["threads"][0]
        assert thread["state"] == "S"
        assert before < thread["since_ns"] < sample["t_ns"]
        assert thread["sleeping_ns"] == sample["t_ns"] - thread["since_ns"]
        assert thread["switches"] == thread["on_cpu_ns"] == thread["waiting_ns"] == 0
        assert any("read" in name for name in thread["stack"]), thread["stack"]


def test_a_sleep_and_who_ended_it(workload: Workload) -> None:
    with Tracer(TRACER, pids=(workload.pid,)) as tracer:
        before = tracer.thread(workload.pid)
        start = time.monotonic_ns()
        workload.start(f"pause {LONG_MS}")
        time.sleep(0.1)
        asleep = tracer.thread(workload.pid)
        later = tracer.thread(workload.pid)
        assert asleep["state"] == later["state"] == "S"
        assert start < asleep["since_ns"] == later["since_ns"] < time.monotonic_ns()
        assert any("nanosleep" in name for name in asleep["stack"]), asleep["stack"]
        assert asleep["woken_by"]["comm"]  # by us, to read the command
        workload.wait()
        time.sleep(0.3)  # it sleeps in read() again: the next command wakes it
        workload.do("calls 0")
        after = tracer.thread(workload.pid)
        assert growth(before, after, "sleeping_ns") > LONG_MS * 1e6
        assert growth(before, after, "switches") >= 2
        assert after["woken_by"] == {"tid": os.getpid(), "comm": own_name()}


def own_name() -> str:
    return pathlib.Path("/proc/self/comm").read_text().strip()


def test_a_thread_that_computes_and_never_sleeps(workload: Workload) -> None:
    workload.start("spin 100000")  # until the end of the test
    time.sleep(0.1)
    with Tracer(TRACER, pids=(workload.pid,)) as tracer:
        first = tracer.sample()
        last = tracer.sample()
        one, other = first["threads"][0], last["threads"][0]
        assert one["state"] == other["state"] == "R"
        ran = growth(one, other, "on_cpu_ns") + growth(one, other, "waiting_ns")
        assert ran == pytest.approx(growth(first, last, "t_ns"), rel=0.05)


def test_times_of_a_thread_add_up(workload: Workload) -> None:
    """It is always in exactly one state: the times grow as the clock does."""
    fields = ("on_cpu_ns", "waiting_ns", "sleeping_ns", "uninterruptible_ns", "stopped_ns")
    with Tracer(TRACER, pids=(workload.pid,)) as tracer:
        first = tracer.sample()
        for _ in range(20):
            workload.do("spin 5")
            workload.do("pause 5")
        os.kill(workload.pid, signal.SIGSTOP)
        time.sleep(0.1)
        os.kill(workload.pid, signal.SIGCONT)
        workload.do("calls 0")
        last = tracer.sample()
        total = sum(growth(first["threads"][0], last["threads"][0], field) for field in fields)
        assert total == pytest.approx(growth(first, last, "t_ns"), abs=1e5)


def test_a_hog_on_the_same_core(programs: pathlib.Path) -> None:
    core = str(min(os.sched_getaffinity(0)))
    ours = Workload(programs / "workload", ("taskset", "-c", core))
    hog = Workload(programs / "workload", ("taskset", "-c", core))
    try:
        with Tracer(TRACER, pids=(ours.pid, hog.pid)) as tracer:
            ours.start("spin 100000")  # until the end of the test
            time.sleep(0.1)
            first = {thread["pid"]: thread for thread in tracer.sample()["threads"]}
            hog.start("spin 100000")
            time.sleep(2)
            last = {thread["pid"]: thread for thread in tracer.sample()["threads"]}
        before, after = first[ours.pid], last[ours.pid]
        waited = growth(before, after, "waiting_ns")
        assert waited > 0.5e9
        assert after["cpu"] == int(core)
        charged = {other["tid"]: other["ns"] for other in after["preempted_by"]}
        # Whenever the hog ran, ours waited. Four are told, the heaviest: on a busy machine the
        # hog need not be one of them, but then each of the four was in the way for longer.
        ran = growth(first[hog.pid], last[hog.pid], "on_cpu_ns")
        # (10 ms: the threads of a sample are read one after the other.)
        assert charged.get(hog.pid, 0) <= 1.02 * ran + 1e7
        if hog.pid not in charged:
            assert len(charged) == 4 and min(charged.values()) > 0.8 * ran
        else:
            assert charged[hog.pid] > 0.8 * ran
        assert sum(charged.values()) <= after["waiting_ns"] * 1.01
        assert all(other["comm"] for other in after["preempted_by"])
    finally:
        ours.end()
        hog.end()


def test_a_new_thread_and_its_end(workload: Workload) -> None:
    with Tracer(TRACER, pids=(workload.pid,)) as tracer:
        tracer.sample()
        workload.do("thread 500")
        threads = tracer.sample()["threads"]
        assert [t["pid"] for t in threads] == [workload.pid] * 2
        new = next(t["tid"] for t in threads if t["tid"] != workload.pid)
        assert next(t for t in threads if t["tid"] == new)["state"] == "S"

        def state(line: Line) -> str | None:
            if line["type"] != "sample":
                return None
            return next((t["state"] for t in line["threads"] if t["tid"] == new), "forgotten")

        tracer.until(lambda line: state(line) == "X")
        tracer.until(lambda line: state(line) == "forgotten")


# --- signals ------------------------------------------------------------------------------------


def test_a_stop_and_its_sender(workload: Workload) -> None:
    with Tracer(TRACER, pids=(workload.pid,)) as tracer:
        before = tracer.thread(workload.pid)
        sender = subprocess.Popen(["bash", "-c", f"kill -STOP {workload.pid}"])
        sender.wait()
        stopped_at = time.monotonic_ns()
        line = tracer.until(lambda line: line["type"] == "signal")
        assert line["name"] == "SIGSTOP" and line["signal"] == 19
        assert line["pid"] == line["tid"] == workload.pid
        assert line["sender_pid"] == sender.pid and line["sender_comm"] == "bash"
        assert line["code"] == 0 and line["result"] == "delivered"
        time.sleep(0.3)
        during = tracer.thread(workload.pid)
        assert during["state"] == "T"
        assert line["t_ns"] <= during["since_ns"] < stopped_at + 0.2e9
        os.kill(workload.pid, signal.SIGCONT)
        cont = tracer.until(lambda line: line["type"] == "signal")
        assert cont["name"] == "SIGCONT" and cont["sender_pid"] == os.getpid()
        workload.do("calls 0")
        after = tracer.thread(workload.pid)
        assert after["state"] == "S"
        stopped = growth(before, after, "stopped_ns")
        assert stopped == pytest.approx(cont["t_ns"] - line["t_ns"], rel=0.2)


def test_a_process_that_was_stopped_before_we_came(workload: Workload) -> None:
    os.kill(workload.pid, signal.SIGSTOP)
    time.sleep(0.1)
    with Tracer(TRACER, pids=(workload.pid,)) as tracer:
        thread = tracer.thread(workload.pid)
        assert thread["state"] == "T" and thread["stopped_ns"] > 0
        os.kill(workload.pid, signal.SIGCONT)
        workload.do("calls 0")
        after = tracer.thread(workload.pid)
        assert after["state"] == "S"
        assert after["stopped_ns"] >= thread["stopped_ns"]


def test_every_signal_is_told(workload: Workload) -> None:
    with Tracer(TRACER, pids=(workload.pid,)) as tracer:
        for _ in range(323):
            os.kill(workload.pid, signal.SIGUSR1)
        tracer.end()
        assert len(tracer.of_type("signal")) == 323
        assert tracer.of_type("sample")[-1]["drops"] == 0
        assert {line["name"] for line in tracer.of_type("signal")} == {"SIGUSR1"}


def test_signals_of_others_are_not_told(programs: pathlib.Path, workload: Workload) -> None:
    other = Workload(programs / "workload")
    with Tracer(TRACER, pids=(workload.pid,)) as tracer:
        os.kill(other.pid, signal.SIGUSR1)
        other.end()
        tracer.end()
        assert tracer.of_type("signal") == []


def test_what_did_not_fit_is_counted(workload: Workload) -> None:
    """The tracer is stopped, so that its smallest buffer (4 KiB: some 56 events) overflows."""
    with Tracer(TRACER, "--ring-bytes", "4096", pids=(workload.pid,)) as tracer:
        tracer.sample()
        tracer.process.send_signal(signal.SIGSTOP)
        for _ in range(500):
            os.kill(workload.pid, signal.SIGUSR1)
        tracer.process.send_signal(signal.SIGCONT)
        tracer.end()
        told, dropped = len(tracer.of_type("signal")), tracer.of_type("sample")[-1]["drops"]
        assert told + dropped == 500
        assert 10 < told < 100


# --- page faults and system calls ---------------------------------------------------------------


def test_page_faults_are_counted_exactly(workload: Workload) -> None:
    with Tracer(TRACER, pids=(workload.pid,)) as tracer:
        workload.do("map 777")
        before = tracer.thread(workload.pid)
        workload.do("touch")
        middle = tracer.thread(workload.pid)
        workload.do("touch")
        after = tracer.thread(workload.pid)
        assert growth(before, middle, "user_faults") == 777
        assert growth(middle, after, "user_faults") == 0


def test_system_calls_are_counted_exactly(workload: Workload) -> None:
    with Tracer(TRACER, "--syscalls", pids=(workload.pid,)) as tracer:
        thread = tracer.thread(workload.pid)
        # It was blocked in read() when we came, and has been since.
        assert thread["in_syscall"]["name"] == "read" and thread["syscalls"] == []
        workload.do("calls 2323")
        calls = {call["name"]: call for call in tracer.thread(workload.pid)["syscalls"]}
        assert calls["getppid"]["count"] == 2323
        assert calls["write"]["count"] == 1
        assert calls["getppid"]["max_ns"] * 2323 >= calls["getppid"]["ns"] > 0
        assert calls["read"]["count"] == 1  # the one that it was in, from then on


def test_the_present_system_call_and_since_when(workload: Workload) -> None:
    with Tracer(TRACER, "--syscalls", pids=(workload.pid,)) as tracer:
        start = time.monotonic_ns()
        workload.start(f"pause {LONG_MS}")
        time.sleep(0.1)
        present = tracer.thread(workload.pid)["in_syscall"]
        assert present["name"] == "clock_nanosleep"
        assert start < present["since_ns"] < time.monotonic_ns()
        workload.wait()
        calls = {call["name"]: call for call in tracer.thread(workload.pid)["syscalls"]}
        assert calls["clock_nanosleep"]["max_ns"] > LONG_MS * 1e6


def test_system_calls_that_are_looked_at_now_and_then(workload: Workload) -> None:
    """Of what happened between two looks nothing is known, and nothing is made up."""

    def present_call(tracer: Tracer, since: int) -> dict[str, Any]:
        tracer.tell("syscalls on")
        line = tracer.until(
            lambda line: line.get("t_ns", 0) > since and "in_syscall" in line["threads"][0]
        )
        found: dict[str, Any] = line["threads"][0]["in_syscall"]
        return found

    with Tracer(TRACER, pids=(workload.pid,)) as tracer:
        workload.start(f"pause {LONG_MS}")
        time.sleep(0.1)
        assert present_call(tracer, 0)["name"] == "clock_nanosleep"
        tracer.tell("syscalls off")
        workload.wait()
        time.sleep(0.2)
        since = time.monotonic_ns()
        present = present_call(tracer, since)
        assert present["name"] == "read" and present["since_ns"] >= since
        workload.do("calls 5")
        calls = {call["name"]: call for call in tracer.thread(workload.pid)["syscalls"]}
        assert calls["getppid"]["count"] == 5 and calls["read"]["count"] == 1
        assert calls["read"]["max_ns"] < time.monotonic_ns() - since
        assert "clock_nanosleep" not in calls


# --- networks -----------------------------------------------------------------------------------

needs_ip = pytest.mark.skipif(shutil.which("ip") is None, reason="no iproute2")


def enter(namespace: str) -> None:
    with open(f"/run/netns/{namespace}") as file:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.setns(file.fileno(), 0) == 0


def socket_in(namespace: str, kind: socket.SocketKind) -> socket.socket:
    """A socket belongs to the namespace in which it was made."""
    made: list[socket.socket] = []

    def make() -> None:
        enter(namespace)
        made.append(socket.socket(socket.AF_INET, kind))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return made[0]


@needs_ip
def test_lost_segments_are_counted_as_the_socket_counts_them(workload: Workload) -> None:
    with two_namespaces("shoal-t") as (near, far), Tracer(TRACER, pids=(workload.pid,)) as tracer:
        server = socket_in(far, socket.SOCK_STREAM)
        server.bind(("10.91.7.2", 5000))
        server.listen()
        client = socket_in(near, socket.SOCK_STREAM)
        client.connect(("10.91.7.2", 5000))
        local = "{}:{}".format(*client.getsockname())
        # The far side drops what is not for it, without a word; the interfaces stay up.
        subprocess.run(
            ["ip", "-n", far, "address", "delete", "10.91.7.2/24", "dev", "v0"], check=True
        )
        start = time.monotonic_ns()
        client.send(b"lost")

        def link_of(line: Line) -> Line | None:
            return next((k for k in line.get("links", []) if k["local"] == local), None)

        seen = tracer.until(lambda line: (link_of(line) or {"retransmits": 0})["retransmits"] >= 2)
        link = link_of(seen)
        assert link is not None
        assert link["remote"] == "10.91.7.2:5000"
        assert link["netns"] == os.stat(f"/run/netns/{near}").st_ino
        assert start < link["lost_at_ns"] <= seen["t_ns"]
        before, sample, after = retransmits(client), tracer.sample(), retransmits(client)
        assert before <= link_of(sample)["retransmits"] <= after  # type: ignore[index]
        client.close()
        server.close()


def retransmits(connection: socket.socket) -> int:
    """tcpi_total_retrans."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int.from_bytes(info[100:104], sys.byteorder)


@needs_ip
def test_bytes_by_address_are_counted_exactly(programs: pathlib.Path) -> None:
    with two_namespaces("shoal-b") as (near, far):
        ours = Workload(programs / "workload", ("ip", "netns", "exec", near))
        try:
            with Tracer(TRACER, "--bytes", pids=(ours.pid,)) as tracer:
                assert tracer.hello["programs"]["bytes"].startswith("attached")
                sender = socket_in(near, socket.SOCK_DGRAM)
                for _ in range(123):
                    sender.sendto(bytes(100), ("10.91.7.2", 7))
                flows = {(f["local"], f["remote"]): f for f in tracer.sample()["bytes"]}
                flow = flows["10.91.7.1", "10.91.7.2"]
                # Ethernet, IPv4 and UDP headers; what comes back says that nobody listens.
                assert flow["sent"] == 123 * (14 + 20 + 8 + 100)
                assert flow["packets"] == 123 + refusals(flow["received"])
                sender.close()
                tracer.end()
        finally:
            ours.end()
        filters = subprocess.run(
            ["tc", "-n", near, "qdisc", "show", "dev", "v0"], capture_output=True, text=True
        ).stdout if shutil.which("tc") else ""  # fmt: skip
        assert "clsact" not in filters


def refusals(received: int) -> int:
    """ICMP messages: each carries our packet's 128 bytes behind headers of 14 + 20 + 8."""
    size = 14 + 20 + 8 + 20 + 8 + 100
    assert received % size == 0
    return received // size


TALKER = """\
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("done", flush=True)
for line in sys.stdin:
    sends, length, receives = map(int, line.split())
    for _ in range(sends):
        connection.sendall(bytes(length))
        datagrams.sendto(bytes(length), ("127.0.0.1", 9))  # no TCP: it is not counted
    connection.recv(1, socket.MSG_PEEK)  # takes nothing
    for _ in range(receives):
        assert len(connection.recv(1)) == 1
    print("done", flush=True)
"""


class Talker(Workload):
    """A process with a TCP connection: `do("N B M")` sends N times B bytes, then receives M times
    one byte."""

    def __init__(self, server: socket.socket, script: pathlib.Path) -> None:
        port = server.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, script, str(port)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.pid = self.process.pid
        self.connection = server.accept()[0]
        self.connection.sendall(bytes(4096))
        threading.Thread(target=self._drain, daemon=True).start()
        self.wait()

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while self.connection.recv(1 << 20):
                pass

    def end(self) -> None:
        super().end()
        self.connection.close()


@pytest.fixture
def talkers(tmp_path: pathlib.Path) -> Iterator[list[Talker]]:
    """Three of them."""
    script = tmp_path / "talker.py"
    script.write_text(TALKER)
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as stack:
        made = []
        for _ in range(3):
            made.append(Talker(server, script))
            stack.callback(made[-1].end)
        yield made


@contextlib.contextmanager
def inside(group: pathlib.Path, pid: int) -> Iterator[None]:
    (group / "cgroup.procs").write_text(str(pid))
    try:
        yield
    finally:
        (group.parent / "cgroup.procs").write_text(str(pid))


@pytest.mark.skipif(groups.version_2() is None, reason="no writable cgroup of version 2")
def test_messages_and_bytes_of_a_control_group_are_counted_exactly(talkers: list[Talker]) -> None:
    rank, neighbour, stranger = talkers
    root = groups.version_2()
    assert root is not None
    with (
        groups.group_of(rank.pid, root) as group,
        inside(group, neighbour.pid),
        Tracer(TRACER, "--cgroups", pids=(rank.pid,)) as tracer,
    ):
        if "sock_send_length" in str(tracer.hello["missing"]):
            pytest.skip("this kernel has no sock_send_length: Linux 6.3")
        tracer.sample()
        rank.do("2323 100 23")
        neighbour.do("7 10 3")
        stranger.do("50 50 50")
        sample = tracer.sample()
        (seen,) = sample["cgroups"]
        assert seen["path"].endswith(group.name) and seen["pids"] == [rank.pid]
        assert seen["ranks"] == {
            "sends": 2323, "sent_bytes": 232_300, "receives": 23, "received_bytes": 23
        }  # fmt: skip
        assert seen["others"] == {
            "sends": 7, "sent_bytes": 70, "receives": 3, "received_bytes": 3
        }  # fmt: skip
        (thread,) = sample["threads"]
        assert seen["on_cpu_ns"] == thread["on_cpu_ns"] > 0
        assert seen["waiting_ns"] == thread["waiting_ns"]
        assert seen["off_cpu_ns"] == sum(
            thread[name] for name in ("sleeping_ns", "uninterruptible_ns", "stopped_ns")
        )
        # Moved elsewhere: what it had stays where it was, and what comes counts there.
        with groups.group_of(rank.pid, group) as below:
            tracer.sample()
            rank.do("11 1 1")
            was, now = sorted(tracer.sample()["cgroups"], key=lambda one: len(one["path"]))
            assert now["path"] == f"{was['path']}/{below.name}"
            assert (was["ranks"]["sends"], now["ranks"]["sends"]) == (2323, 11)
            assert (was["pids"], now["pids"]) == ([], [rank.pid])


# --- operations of shoal, messages of UCX -------------------------------------------------------

BARRIERS = """\
import os, pathlib, sys, time, shoal
folder, count, late = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
comm = shoal.init()
comm.barrier()
(folder / f"{comm.rank}.pid").write_text(str(os.getpid()))
while not (folder / "go").exists():
    time.sleep(0.01)
if comm.rank == 1:
    time.sleep(late)
for _ in range(count):
    comm.barrier()
(folder / f"{comm.rank}.done").touch()
while not (folder / "end").exists():
    time.sleep(0.01)
"""


def libshoal() -> pathlib.Path | None:
    package = importlib.util.find_spec("shoal")
    if package is None or package.origin is None:
        return None
    return next(pathlib.Path(package.origin).parent.glob("libshoal.so*"), None)


LIBSHOAL = libshoal()
needs_probes = pytest.mark.skipif(
    LIBSHOAL is None or b"stapsdt" not in LIBSHOAL.read_bytes(),
    reason="no shoal with USDT probes is installed",
)


class Job:
    """Two ranks that wait for `go`, do `count` barriers, and wait to be ended."""

    def __init__(self, folder: pathlib.Path, count: int, late_s: float = 0) -> None:
        (folder / "barriers.py").write_text(BARRIERS)
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shoal.cli", "run", "-n", "2", sys.executable,
             folder / "barriers.py", folder, str(count), str(late_s)],
        )  # fmt: skip
        self.pids: tuple[int, ...] = ()

    def await_files(self, kind: str) -> None:
        end = time.monotonic() + LIMIT_S
        while not all((self.folder / f"{rank}.{kind}").exists() for rank in range(2)):
            assert time.monotonic() < end and self.process.poll() is None
            time.sleep(0.05)

    def end(self) -> None:
        (self.folder / "end").touch()
        assert self.process.wait(LIMIT_S) == 0

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)  # the launcher ends its ranks
            self.process.wait(LIMIT_S)


@contextlib.contextmanager
def running(folder: pathlib.Path, count: int, late_s: float = 0) -> Iterator[Job]:
    """Nothing of it is left after the block, whatever happens there."""
    job = Job(folder, count, late_s)
    try:
        job.await_files("pid")
        time.sleep(0.1)  # written, too
        job.pids = tuple(int((folder / f"{rank}.pid").read_text()) for rank in range(2))
        yield job
    finally:
        job.stop()


@needs_probes
def test_operations_are_counted_exactly(tmp_path: pathlib.Path) -> None:
    arguments = ("--operations", str(LIBSHOAL), "--no-sampling")
    with running(tmp_path, 2323) as job, Tracer(TRACER, *arguments, pids=job.pids) as tracer:
        (tmp_path / "go").touch()
        job.await_files("done")
        sample = tracer.sample()
        assert sample["operations_sampled"] == 1.0
        assert {group["pid"] for group in sample["operations"]} == set(job.pids)
        for group in sample["operations"]:
            assert group["begun"] == group["ended"] == sum(group["ns_log2"]) == 2323
            assert group["failed"] == 0 and group["communicator"] == 0
        job.end()


@needs_probes
def test_a_stall_is_told_with_whom_it_waits_for(tmp_path: pathlib.Path) -> None:
    arguments = ("--operations", str(LIBSHOAL))
    with (
        running(tmp_path, 1, late_s=1.5) as job,
        Tracer(TRACER, *arguments, pids=job.pids) as tracer,
    ):
        (tmp_path / "go").touch()
        stall = tracer.until(lambda line: line["type"] == "stall")
        assert stall["pid"] == job.pids[0] and stall["awaited"] == 1
        job.await_files("done")
        groups = {group["pid"]: group for group in tracer.sample()["operations"]}
        assert groups[job.pids[0]]["stalled"] >= 1
        # The wait of 1.5 s lies between 2^30 and 2^31 ns.
        assert groups[job.pids[0]]["ns_log2"][30] == 1
        job.end()


@needs_probes
def test_frequent_operations_are_sampled(tmp_path: pathlib.Path) -> None:
    """The probes are taken off for most of the time, and put on again."""

    def begun(line: Line) -> int:
        return sum(group["begun"] for group in line.get("operations", []))

    arguments = ("--operations", str(LIBSHOAL))
    with (
        running(tmp_path, 1_000_000_000) as job,  # more than it gets to, on any machine
        Tracer(TRACER, *arguments, pids=job.pids) as tracer,
    ):
        (tmp_path / "go").touch()
        first = tracer.until(lambda line: line.get("operations_sampled", 1) < 0.5)
        # Where hits are many, or switching is slow, they stay off a thousand times as long.
        later = tracer.until(lambda line: begun(line) > begun(first), 3 * LIMIT_S)
        assert later["operations_sampled"] < 0.9
        for group in later["operations"]:
            assert abs(group["begun"] - group["ended"]) <= 10  # one at each switching


def test_messages_of_ucx_are_counted_exactly(programs: pathlib.Path, workload: Workload) -> None:
    library = str(programs / "libucp.so")
    with Tracer(TRACER, "--ucx", library, pids=(workload.pid,)) as tracer:
        assert tracer.hello["programs"]["ucp_tag_send_nbx"] == "attached"
        workload.do("send 321 1000")
        assert tracer.sample()["ucx"] == [
            {"pid": workload.pid, "sends": 321, "receives": 321, "bytes": 321_000}
        ]


# --- what the verifier refuses ------------------------------------------------------------------

# A change that would read or run wild, and words of the refusal (kernels 6.1 and 6.18).
UNSAFE = {
    "a value that may not be there": (
        "faults.bpf.c",
        "if (thread) ++thread->user_faults;",
        "++thread->user_faults;",
        r"invalid mem access 'map_value_or_null'",
    ),
    "a loop without an end": (
        "faults.bpf.c",
        "if (thread) ++thread->user_faults;",
        "while (true) if (thread) __sync_fetch_and_add(&thread->user_faults, 1);",
        r"infinite loop detected|program is too large|too complex",
    ),
    "a read beyond the stack": (
        "tcp.bpf.c",
        "bpf_map_lookup_elem(&links, &key)",
        "bpf_map_lookup_elem(&links, (char *)&key + 16)",
        r"invalid (indirect )?(read|access|write)[a-z ]* stack",
    ),
    "an entry beyond the table": (
        "scheduler.bpf.c",
        "thread->preemptors[place & (kPreemptors - 1)]",
        "thread->preemptors[place + thread->switches]",
        r"unbounded memory access|outside of the allowed memory|unbounded min value",
    ),
}
CLANGS = ["clang", *(f"clang-{version}" for version in range(19, 13, -1))]
CLANG = next(filter(None, map(shutil.which, CLANGS)), None)
BPFTOOL = shutil.which("bpftool", path=os.environ["PATH"] + ":/usr/sbin")


@pytest.fixture
def load(tmp_path: pathlib.Path) -> Iterator[object]:
    """load(source) -> bpftool's result: the program is compiled and given to the verifier."""
    if CLANG is None or BPFTOOL is None:
        pytest.skip("no clang or no bpftool")
    pins = tmp_path / "pins"
    pins.mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", pins], check=True)

    count = itertools.count()

    def load_it(source: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "x.bpf.c").write_text(source)
        machine = os.uname().machine
        subprocess.run(
            [str(CLANG), "-target", "bpf", "-mcpu=v3", "-O2", "-g", f"-I{ROOT / 'bpf'}",
             f"-I/usr/include/{machine}-linux-gnu",
             "-D__TARGET_ARCH_" + ("arm64" if machine == "aarch64" else "x86"),
             "-c", tmp_path / "x.bpf.c", "-o", tmp_path / "x.bpf.o"],
            check=True,
        )  # fmt: skip
        return subprocess.run(
            [str(BPFTOOL), "prog", "loadall", tmp_path / "x.bpf.o", pins / str(next(count))],
            capture_output=True, text=True, timeout=LIMIT_S,
        )  # fmt: skip

    yield load_it
    subprocess.run(["umount", pins], check=True)


@pytest.mark.parametrize("name", UNSAFE)
def test_the_verifier_refuses(name: str, load: object) -> None:
    file, safe, unsafe, words = UNSAFE[name]
    source = (ROOT / "bpf" / file).read_text()
    assert source.count(safe) == 1
    assert load(source).returncode == 0  # type: ignore[operator]
    done = load(source.replace(safe, unsafe))  # type: ignore[operator]
    assert done.returncode != 0
    assert re.search(words, done.stderr), done.stderr[-2000:]

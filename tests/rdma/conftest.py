"""What only RDMA devices can show: `make test-rdma` runs this in the virtual machine of tests/vm.

Two hosts are two network namespaces, joined by a veth pair for the job's own connections. The
devices belong to the first namespace, but may be used from all: host a works over rxe0, b over
rxe1, and what they send crosses the links h0 and h1 (tests/vm/rdma-devices.sh).
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.python.conftest import Result, Runner, TwoHosts, job, two_hosts

__all__ = ["Hosts", "Result", "Runner", "TwoHosts", "job", "two_hosts"]  # fixtures, and their types

ON_HOST = pathlib.Path(__file__).with_name("on_host.sh")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not pathlib.Path("/sys/class/infiniband/rxe1").exists():
        for item in items:
            item.add_marker(pytest.mark.skip("needs the devices of the VM: make test-rdma"))


# Of the guest; a machine half as fast as usual takes longer for all tests.
SECONDS = float(os.environ.get("SHOAL_TEST_RDMA_SECONDS", "inf"))
STARTED = time.monotonic()


def pytest_runtest_setup(item: pytest.Item) -> None:
    spent = time.monotonic() - STARTED
    is_again = getattr(item, "execution_count", 1) > 1  # it has failed: pytest-rerunfailures
    if spent > SECONDS and not is_again:
        pytest.skip(f"not begun: {spent:.0f} s are gone, and the tests have {SECONDS:.0f} s")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test that is run once more (rdma-suites.sh says why): what was wrong at first is shown."""
    if str(report.outcome) == "rerun":
        print(f"\n{report.nodeid}, {report.when}, at first:\n{report.longreprtext}", flush=True)


@dataclass
class Hosts:
    """Runs a program on both, `ranks_each` on each, with variables for on_host.sh and the ranks."""

    job: Runner
    two: TwoHosts

    def run(
        self,
        source: str,
        *arguments: str,
        ranks_each: int = 1,
        network: str = "auto",
        expect: int = 0,
        limit_s: float = 60,
        **variables: str,
    ) -> Result:
        # Receive queues of the default length, 70 MB a device, take seconds to fill in emulation.
        settings = {"UCX_RC_RX_QUEUE_LEN": "256", "UCX_UD_RX_QUEUE_LEN": "256", **variables}
        agent = " ".join(["env", *(f"{k}={v}" for k, v in settings.items()), f"{ON_HOST} {{host}}"])
        options = list(self.two.options(ranks_each, network))
        options[options.index("--agent") + 1] = agent
        return self.job(
            source, expect=expect, limit_s=limit_s, options=tuple(options), arguments=arguments,
            # `ip netns exec` would hide /sys/fs/cgroup and the links of the devices.
            launcher=("nsenter", f"--net=/run/netns/{self.two.a}"),
        )  # fmt: skip


@pytest.fixture
def hosts(job: Runner, two_hosts: TwoHosts) -> Hosts:
    return Hosts(job, two_hosts)


@pytest.fixture
def lossy_links() -> Iterator[None]:
    """Each packet between the devices is lost with a probability of 1 %."""
    run("modprobe", "sch_netem")
    for link in ("h0", "h1"):
        run("tc", "qdisc", "add", "dev", link, "root", "netem", "loss", "1%", "limit", "10000")
    yield
    for link in ("h0", "h1"):
        run("tc", "qdisc", "del", "dev", link, "root")


@pytest.fixture
def cgroup() -> Iterator[Callable[[str], str]]:
    """cgroup(limits): the name of a new cgroup with this rdma.max."""
    root = pathlib.Path("/sys/fs/cgroup")
    made: list[pathlib.Path] = []

    def make(limits: str) -> str:
        (root / "cgroup.subtree_control").write_text("+rdma")
        folder = root / f"shoal-test-{os.getpid()}-{len(made)}"
        folder.mkdir()
        made.append(folder)
        for line in limits.splitlines():
            (folder / "rdma.max").write_text(line)
        return folder.name

    yield make
    for folder in made:
        folder.rmdir()


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

"""Faults of hosts that talk by RDMA, in the virtual machine of tests/vm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.trace.faults.catalog import Scene, ask, fault, overlapping
from tests.trace.faults.rdma_hosts import RdmaHosts, break_queue_pairs, missing
from tests.trace.faults.size import RANKS

RDMA: dict[str, Any] = {"two_hosts": True, "missing": missing, "rdma": {}}


def _hosts(scene: Scene) -> RdmaHosts:
    assert isinstance(scene.hosts, RdmaHosts)
    return scene.hosts


def _link(scene: Scene) -> str:
    """That of the victim's device."""
    return "h0" if scene.victim < RANKS // 2 else "h1"


@fault("link_down", **RDMA)
def rdma_link_down(scene: Scene) -> Iterator[set[int]]:
    """The cable of an RDMA device is pulled out."""
    scene.variant = _link(scene)
    with _hosts(scene).unplugged(_link(scene)):
        yield {scene.victim}


@fault("packet_loss", **RDMA)
def rdma_loss(scene: Scene) -> Iterator[set[int]]:
    """netem loses 5 to 20 % of the packets that an RDMA device sends."""
    percent = scene.random.randint(5, 20)
    scene.variant = f"{percent} % of {_link(scene)}"
    with _hosts(scene).lossy(_link(scene), percent):
        yield set(range(RANKS))


# None. rxe's timer is not set anew by what is sent while it runs: of sends that follow one another
# closely one times out, though each is acknowledged in time.
NO_TIME_OUT = {"UCX_RC_TIMEOUT": "20000s"}


@fault("congestion", options=overlapping, **RDMA | {"rdma": NO_TIME_OUT})
def rdma_slow_link(scene: Scene) -> Iterator[set[int]]:
    """The link of an RDMA device carries 50 to 100 kB a second, and loses nothing."""
    rate_kb = scene.random.randint(50, 100)
    scene.variant = f"{rate_kb} kB/s at {_link(scene)}"
    with _hosts(scene).slow(_link(scene), rate_kb):
        yield set(range(RANKS))


def _lingers(scene: Scene) -> Iterator[set[int]]:
    """In a collective that it has begun. It sleeps: of the guest's two processors the tracer needs
    one and the other rank one, so that a rank that computed would wait for a core itself."""
    yield from ask(scene, "sleep", place="within")


@fault("slow_receiver", options=overlapping, **RDMA)
def rdma_slow_receiver(scene: Scene) -> Iterator[set[int]]:
    """Sleeps in a collective that it has begun, while completions wait in its queue."""
    yield from _lingers(scene)


# Half of 2 MiB in 128 segments, for which 64 receives are posted.
SEGMENTS = {"UCX_RNDV_THRESH": "inf", "UCX_RC_RX_QUEUE_LEN": "64", "UCX_RC_FC_ENABLE": "n"}


@fault("receiver_not_ready", options=overlapping, **RDMA | {"rdma": SEGMENTS})
def rdma_receiver_not_ready(scene: Scene) -> Iterator[set[int]]:
    """The same, where the sender has more segments than receives are posted."""
    yield from _lingers(scene)


@fault("qp_error", options=overlapping, may_break=True, **RDMA)
def rdma_qp_error(scene: Scene) -> Iterator[set[int]]:
    """The queue pairs of a rank go into the state of error while it does not look."""
    for culprits in ask(scene, "overlap", may_repeat=False, place="within"):
        scene.variant = f"{break_queue_pairs(scene.pid)} queue pairs"
        yield culprits

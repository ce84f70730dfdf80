"""What is measured, and for whom."""

from __future__ import annotations

from dataclasses import dataclass

from ..cells import Cell

FLOOR, GLOO, POOL, ORDINARY = "floor", "gloo", "shoal-pool", "shoal-ordinary"
CONTENDERS = (FLOOR, GLOO, POOL, ORDINARY)
OURS = (POOL, ORDINARY)
ALONE = "-alone"  # the same training step without communication

OPS = (
    "all_reduce",
    "broadcast",
    "reduce",
    "all_gather_into_tensor",
    "all_gather",  # into a list of tensors
    "reduce_scatter_tensor",
    "reduce_scatter",  # of a list of tensors
    "all_to_all_single",
    "all_to_all_uneven",  # all_to_all_single with split sizes
    "gather",
    "scatter",
    "send_recv",  # there and back
    "barrier",
)
SIZES = "8,1Ki,16Ki,128Ki,1Mi,16Mi"
SMALL_BYTES, LARGE_BYTES = 1 << 10, 128 << 10  # means are of cells up to, and from


@dataclass(frozen=True)
class Training:
    """A way to train."""

    name: str
    text: str
    is_fsdp: bool = False
    bucket_mib: int = 0  # of DDP; 0: torch's default
    bucket_views: bool = False  # gradients lie in the buckets


TRAININGS = {
    one.name: one
    for one in (
        Training("ddp", "DDP, buckets of 25 MiB, the first of 1 MiB"),
        Training("ddp-4", "DDP, buckets of 4 MiB", bucket_mib=4),
        Training("ddp-4-views", "DDP, buckets of 4 MiB with the gradients in them", False, 4, True),
        Training("fsdp2", "FSDP2, block by block", is_fsdp=True),
    )
}


def buffers_of(cell: Cell) -> tuple[str, ...]:
    """Those who take turns in a cell."""
    if cell.op == "barrier":
        return (FLOOR, GLOO, ORDINARY)
    training = TRAININGS.get(cell.op)
    if training is None or training.is_fsdp:
        return CONTENDERS  # the floor of FSDP is its step without communication, too
    return tuple(name + alone for name in CONTENDERS for alone in ("", ALONE))

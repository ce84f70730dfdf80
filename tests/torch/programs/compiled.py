"""Functional collectives: called as they are, and from compiled functions."""

from __future__ import annotations

import os
import shutil
import sys

import checks
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from checks import RANK, SIZE
from torch.distributed.nn import functional as differentiable

SUM = float(sum(range(1, SIZE + 1)))

# A header to be compiled ahead pays for many functions; here it would take longer than they do.
os.environ.setdefault("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", "0")


def mine(*shape: int) -> torch.Tensor:
    return torch.full(shape, RANK + 1.0)


def all_of_them(x: torch.Tensor) -> list[torch.Tensor]:
    group = dist.group.WORLD
    total = functional.all_reduce(x * 2, "sum", group)
    mean = functional.all_reduce(x + 1, "avg", group)
    gathered = functional.all_gather_tensor(x + 0, 0, group)
    columns = functional.all_gather_tensor(x + 0, 1, group)
    scattered = functional.reduce_scatter_tensor(gathered * 3, "sum", 0, group)
    rows = len(x)
    exchanged = functional.all_to_all_single(
        x + 0, [rows // SIZE] * SIZE, [rows // SIZE] * SIZE, group
    )
    from_first = functional.broadcast(x + 5, 1, group)
    several = functional.all_reduce_coalesced([x, x * 2], "sum", group)
    return [total, mean, gathered, columns, scattered, exchanged, from_first, *several]


def require(results: list[torch.Tensor], rows: int) -> None:
    total, mean, gathered, columns, scattered, exchanged, from_first, one, two = [
        result.wait() if hasattr(result, "wait") else result for result in results
    ]
    assert (total == 2 * SUM).all()
    assert (mean == SUM / SIZE + 1).all()
    each = torch.arange(1.0, SIZE + 1)
    assert torch.equal(gathered[:, 0], each.repeat_interleave(rows)), gathered
    assert torch.equal(columns[0], each.repeat_interleave(total.size(1))), columns
    assert (scattered == 3 * SIZE * (RANK + 1)).all(), scattered
    assert torch.equal(exchanged[:, 0], each.repeat_interleave(rows // SIZE)), exchanged
    assert (from_first == 2 + 5).all()
    assert (one == SUM).all() and (two == 2 * SUM).all()


def check_functional_collectives() -> None:
    for rows in (SIZE, 40 * SIZE):
        require(all_of_them(mine(rows, 30)), rows)


def check_differentiable_collectives() -> None:
    x = mine(10).requires_grad_()
    (differentiable.all_reduce(x) * (RANK + 1)).sum().backward()
    assert x.grad is not None and (x.grad == SUM).all()
    x = mine(10).requires_grad_()
    torch.cat(list(differentiable.all_gather(x))).sum().backward()
    assert x.grad is not None and (x.grad == SIZE).all()


def check_traced_collectives() -> None:
    """Through the compiler's front, without code."""
    traced = torch.compile(all_of_them, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        require(traced(mine(SIZE, 30)), SIZE)


def check_compiled_collectives() -> None:
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        raise checks.Skip("torch.compile needs a C++ compiler")

    def step(x: torch.Tensor) -> torch.Tensor:
        y = functional.all_reduce((x * 2).relu() + 1, "sum", dist.group.WORLD)
        return y.sin() + 1

    x = mine(SIZE, 30)
    # Alone first: whether a compiler works has nothing to do with collectives.
    try:
        torch.compile(lambda x: (x * 2).relu() + 1)(x)
    except Exception as error:
        raise checks.Skip(f"torch.compile does not work here: {str(error)[:200]}") from None
    compiled = torch.compile(step, fullgraph=True)
    wanted = torch.full((SIZE, 30), 2 * SUM + SIZE).sin() + 1
    for _ in range(3):
        torch.testing.assert_close(compiled(x), wanted)


if __name__ == "__main__":
    checks.run(globals(), sys.argv[1:])

"""A training step of a small transformer, with communication and without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from .calls import Place
from .cells import Training

_WORDS, _WIDTH, _HEADS, _BLOCKS = 4096, 256, 4, 4
_SENTENCES, _LENGTH = 4, 16  # short, so that a step is not all arithmetic
_LEARNING_RATE = 1e-4
_SETTLING_STEPS = (
    5  # DDP makes its buckets anew after the first; they are in the pool after three more
)


@dataclass(frozen=True)
class Pair:
    """The same step twice: one that communicates, one that does not."""

    step: Callable[[], None]
    alone: Callable[[], None]


class Model(nn.Module):
    """5.3 million parameters, 21 MB."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(_WORDS, _WIDTH)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(_WIDTH, _HEADS, 4 * _WIDTH, dropout=0.0, batch_first=True)
            for _ in range(_BLOCKS)
        )
        self.head = nn.Linear(_WIDTH, _WORDS)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.embedding(words)
        for block in self.blocks:
            x = block(x)
        y: torch.Tensor = self.head(x)
        return y


def make(training: Training, place: Place, is_floor: bool) -> Pair:
    return _fsdp(place) if training.is_fsdp else _ddp(training, place, is_floor)


def _ddp(training: Training, place: Place, is_floor: bool) -> Pair:
    """The buckets lie in the pool if `place` says so; the rest of training does not."""
    with place.memory():
        model = DistributedDataParallel(
            Model(),
            process_group=dist.group.WORLD if is_floor else place.group,
            bucket_cap_mb=training.bucket_mib or None,
            gradient_as_bucket_view=training.bucket_views,
        )
        if is_floor:
            # "fake" gives DDP no tensors back.
            model.register_comm_hook(None, lambda _, bucket: _nothing(bucket))
        step = _step_of(model)
        for _ in range(_SETTLING_STEPS):
            step()

    def alone() -> None:
        with model.no_sync():
            step()

    return Pair(step, alone)


def _nothing(bucket: Any) -> torch.futures.Future[torch.Tensor]:
    done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


def _fsdp(place: Place) -> Pair:
    """FSDP makes its buffers anew in each step: all of it runs with `place`'s memory."""
    assert place.group is not None
    mesh = DeviceMesh.from_group(place.group, "cpu")
    model = Model()
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    inner = _step_of(model)

    def step() -> None:
        with place.memory():
            inner()

    for _ in range(_SETTLING_STEPS):
        step()
    return Pair(step, step)


def _step_of(model: nn.Module) -> Callable[[], None]:
    words = torch.randint(_WORDS, (_SENTENCES, _LENGTH))
    targets = torch.randint(_WORDS, (_SENTENCES * _LENGTH,))
    optimizer = torch.optim.SGD(model.parameters(), lr=_LEARNING_RATE)

    def step() -> None:
        found = model(words).view(-1, _WORDS)
        loss: Any = nn.functional.cross_entropy(found, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step

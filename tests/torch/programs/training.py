"""What people train with, over shoal and over gloo: the results are equal.

With two ranks to the bit: a sum of two numbers has one order only.
"""

from __future__ import annotations

import copy
import functools
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable

import checks
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from checks import RANK, SIZE
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.distributed.algorithms.join import Join
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import shoal.torch

STEPS, BATCH = 6, 32
Weights = dict[str, torch.Tensor]


@functools.cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    data = load_digits()
    order = torch.randperm(len(data.data), generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.data / 16, dtype=torch.float32)[order], torch.tensor(data.target)[
        order
    ]


def batch(step: int, rank: int = RANK) -> tuple[torch.Tensor, torch.Tensor]:
    """Of this rank."""
    x, y = digits()
    first = (step * SIZE + rank) * BATCH % (len(x) - BATCH)
    return x[first : first + BATCH], y[first : first + BATCH]


def network(width: int = 128) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )


@functools.cache
def gloo(_: dist.ProcessGroup) -> dist.ProcessGroup:
    """Beside this default group; after a check that failed there is another one."""
    return dist.new_group(backend="gloo")


def group_of(backend: str) -> dist.ProcessGroup:
    return gloo(dist.group.WORLD) if backend == "gloo" else dist.group.WORLD


def mesh_of(backend: str) -> DeviceMesh:
    return DeviceMesh.from_group(group_of(backend), "cpu", mesh_dim_names=("all",))


def steps(
    model: nn.Module, optimizer: torch.optim.Optimizer | None = None, count: int = STEPS
) -> None:
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(count):
        x, y = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def weights(model: nn.Module) -> Weights:
    def whole(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    return {
        name.removeprefix("module."): whole(p.detach()).clone()
        for name, p in model.named_parameters()
    }


def equal(a: Weights, b: Weights, exact: bool = SIZE == 2) -> None:
    assert a.keys() == b.keys(), (a.keys(), b.keys())
    for name in a:
        if exact:
            difference = (a[name] - b[name]).abs().max()
            assert torch.equal(a[name], b[name]), (name, difference)
        else:
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)


def same_everywhere(mine: Weights, exact: bool = True) -> None:
    everyone: list[Weights | None] = [None] * SIZE
    dist.all_gather_object(everyone, mine)
    for other in everyone:
        assert other is not None
        equal(mine, other, exact)


def require_equal_results(train: Callable[[str], Weights], exact: bool = SIZE == 2) -> Weights:
    """Over shoal and over gloo, and it has learnt something."""
    over_shoal, over_gloo = train("shoal"), train("gloo")
    equal(over_shoal, over_gloo, exact)
    assert any(not torch.equal(w, dict(network().named_parameters()).get(n, w + 1))
               for n, w in over_shoal.items())  # fmt: skip
    return over_shoal


# --- DistributedDataParallel ---------------------------------------------------------------------


def ddp(backend: str, count: int = STEPS, **options: object) -> Weights:
    model = DistributedDataParallel(network(), process_group=group_of(backend), **options)
    steps(model, count=count)
    return weights(model)


def check_ddp() -> None:
    same_everywhere(require_equal_results(ddp))


def check_ddp_with_small_buckets_and_views_of_them() -> None:
    options = {"bucket_cap_mb": 0.02, "gradient_as_bucket_view": True}
    over_shoal = require_equal_results(functools.partial(ddp, **options))
    equal(over_shoal, ddp("shoal"), exact=SIZE == 2)


def check_ddp_with_a_static_graph() -> None:
    require_equal_results(functools.partial(ddp, static_graph=True))


def check_ddp_finds_unused_parameters() -> None:
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.always, self.first, self.second = network(), nn.Linear(10, 10), nn.Linear(10, 10)
            self.count = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count += 1
            y: torch.Tensor = self.always(x)
            return self.first(y) if (self.count + RANK) % 3 else self.second(y)

    def train(backend: str) -> Weights:
        model = DistributedDataParallel(
            Sometimes(), process_group=group_of(backend), find_unused_parameters=True
        )
        steps(model)
        return weights(model)

    require_equal_results(train)


def check_ddp_accumulates_under_no_sync() -> None:
    def train(backend: str) -> Weights:
        model = DistributedDataParallel(network(), process_group=group_of(backend))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(4):
            optimizer.zero_grad()
            with model.no_sync():
                x, y = batch(2 * step)
                F.cross_entropy(model(x), y).backward()
            x, y = batch(2 * step + 1)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        return weights(model)

    require_equal_results(train)


def check_ddp_with_buffers() -> None:
    """Those of rank 0 are sent before each step."""

    def train(backend: str) -> Weights:
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
        wrapped = DistributedDataParallel(model, process_group=group_of(backend))
        steps(wrapped)
        buffers = {name: b.float() for name, b in model.named_buffers()}
        return weights(wrapped) | buffers

    require_equal_results(train)


def check_ddp_joins_ranks_with_fewer_batches() -> None:
    def train(backend: str) -> Weights:
        model = DistributedDataParallel(network(), process_group=group_of(backend))
        with Join([model]):
            steps(model, count=3 + RANK)
        return weights(model)

    require_equal_results(train)


def check_ddp_twice_gives_the_same_bits() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        equal(ddp("shoal"), ddp("shoal"), exact=True)
    finally:
        torch.use_deterministic_algorithms(False)


def check_ddp_in_the_pool_stages_no_bytes() -> None:
    """Neither the buckets' gradients, nor the parameters that are broadcast before."""
    before = shoal.torch.statistics()
    with shoal.torch.pool():
        trained = ddp("shoal", bucket_cap_mb=0.02)
    after = shoal.torch.statistics()
    assert after["operations"] > before["operations"] + STEPS
    assert after["staged_bytes"] == before["staged_bytes"], (before, after)
    assert after["copied_bytes"] == before["copied_bytes"], (before, after)
    equal(trained, ddp("shoal"))
    assert shoal.torch.statistics()["staged_bytes"] > after["staged_bytes"]  # without the pool


def check_ddp_comm_hooks() -> None:
    compare_hooks("plain", "bf16", "fp16")


def check_ddp_power_sgd() -> None:
    """Each of its callbacks waits for an all_reduce that it has begun."""
    compare_hooks("powerSGD")


def compare_hooks(*hooks: str) -> None:
    def train(backend: str, hook: str) -> Weights:
        group = group_of(backend)
        model = DistributedDataParallel(network(), process_group=group)
        if hook == "bf16":
            # torch refuses this one of its hooks on CPUs, by its name
            model.register_comm_hook(
                group, lambda state, bucket: default_hooks.bf16_compress_hook(state, bucket)
            )
        elif hook == "fp16":
            model.register_comm_hook(group, default_hooks.fp16_compress_hook)
        elif hook == "plain":
            model.register_comm_hook(group, default_hooks.allreduce_hook)
        else:
            torch.manual_seed(3)
            state = powerSGD_hook.PowerSGDState(group, 2, start_powerSGD_iter=2, random_seed=5)
            model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        steps(model)
        return weights(model)

    for hook in hooks:
        over_shoal = train("shoal", hook)
        over_gloo = train("gloo", hook)
        if hook == "plain":
            equal(over_shoal, over_gloo)
        for name in over_shoal:
            torch.testing.assert_close(over_shoal[name], over_gloo[name], rtol=0.02, atol=0.002)
        # powerSGD multiplies matrices wherever they lie in memory, which moves the last bit, also
        # over gloo
        same_everywhere(over_shoal, exact=hook != "powerSGD")


def check_ddp_builtin_comm_hook() -> None:
    """Of C++, which calls the group's all_reduce itself."""

    def train(backend: str) -> Weights:
        model = DistributedDataParallel(network(), process_group=group_of(backend))
        model._register_builtin_comm_hook(dist.BuiltinCommHookType.ALLREDUCE)
        steps(model)
        return weights(model)

    require_equal_results(train)


def check_ddp_learns_as_one_rank_does() -> None:
    trained = ddp("shoal")
    alone = network()
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9)
    for step in range(STEPS):
        shares = [batch(step, rank) for rank in range(SIZE)]
        x, y = torch.cat([x for x, _ in shares]), torch.cat([y for _, y in shares])
        optimizer.zero_grad()
        F.cross_entropy(alone(x), y).backward()
        optimizer.step()
    equal(trained, weights(alone), exact=False)


# --- sharded -------------------------------------------------------------------------------------


def sharded(backend: str, policy: MixedPrecisionPolicy | None = None) -> nn.Sequential:
    model = network()
    mesh = mesh_of(backend)
    options = {} if policy is None else {"mp_policy": policy}
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    return model


def check_fsdp2() -> None:
    def train(backend: str) -> Weights:
        model = sharded(backend)
        steps(model, torch.optim.AdamW(model.parameters(), lr=0.01))
        return weights(model)

    trained = require_equal_results(train)
    same_everywhere(trained)


def check_fsdp2_learns_as_ddp_does() -> None:
    model = sharded("shoal")
    steps(model)
    equal(weights(model), ddp("shoal"), exact=False)


def check_fsdp2_of_mixed_precision() -> None:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)

    def train(backend: str) -> Weights:
        model = sharded(backend, policy)
        steps(model)
        return weights(model)

    require_equal_results(train, exact=False)


def check_zero_redundancy_optimizer() -> None:
    def train(backend: str) -> Weights:
        group = group_of(backend)
        model = DistributedDataParallel(network(), process_group=group)
        optimizer = ZeroRedundancyOptimizer(
            model.parameters(), torch.optim.Adam, process_group=group, lr=0.01
        )
        steps(model, optimizer)
        optimizer.consolidate_state_dict(0)
        if RANK == 0:
            assert len(optimizer.state_dict()["state"]) == len(list(model.parameters()))
        return weights(model)

    same_everywhere(require_equal_results(train))


def check_checkpoints() -> None:
    """What has been saved by all ranks is loaded by all of them, also into a model not sharded."""
    names: list[object] = [tempfile.mkdtemp(prefix="shoal-checkpoint-") if RANK == 0 else None]
    dist.broadcast_object_list(names, 0)
    directory = str(names[0])
    try:
        model = sharded("shoal")
        steps(model)
        saved = weights(model)
        dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=directory)
        fresh = sharded("shoal")
        assert not torch.equal(weights(fresh)["0.weight"], saved["0.weight"])
        state = {"model": get_model_state_dict(fresh)}
        dcp.load(state, checkpoint_id=directory)
        set_model_state_dict(fresh, state["model"])
        equal(weights(fresh), saved, exact=True)
        whole = network()
        state = {"model": whole.state_dict()}
        dcp.load(state, checkpoint_id=directory)
        whole.load_state_dict(state["model"])
        equal(weights(whole), saved, exact=True)
        future = dcp.async_save(
            {"model": get_model_state_dict(model)},
            checkpoint_id=os.path.join(directory, "second"),
            process_group=dist.new_group(),  # of the thread that saves
        )
        steps(model, count=1)  # meanwhile
        future.result(timeout=30)
        state = {"model": network().state_dict()}
        dcp.load(state, checkpoint_id=os.path.join(directory, "second"))
        for name, tensor in state["model"].items():
            assert torch.equal(tensor, saved[name]), name
    finally:
        dist.barrier()
        if RANK == 0:
            shutil.rmtree(directory, ignore_errors=True)


# --- tensors over ranks --------------------------------------------------------------------------


def check_dtensors_change_their_layout() -> None:
    whole = torch.arange(7.0 * 5 * SIZE).reshape(7, 5 * SIZE)  # 7 rows: uneven shards
    for backend in ("shoal", "gloo"):
        mesh = mesh_of(backend)
        rows = distribute_tensor(whole, mesh, [Shard(0)])
        columns = rows.redistribute(placements=[Shard(1)])
        assert torch.equal(columns.to_local(), whole.chunk(SIZE, 1)[RANK])
        assert torch.equal(columns.redistribute(placements=[Replicate()]).to_local(), whole)
        assert torch.equal(rows.full_tensor(), whole)
        partial = DTensor.from_local(whole * (RANK + 1), mesh, [Partial()])
        factor = SIZE * (SIZE + 1) / 2
        assert torch.equal(partial.full_tensor(), whole * factor)
        scattered = partial.redistribute(placements=[Shard(1)])
        assert torch.equal(scattered.to_local(), whole.chunk(SIZE, 1)[RANK] * factor)
        product = columns @ distribute_tensor(whole.t().contiguous(), mesh, [Shard(0)])
        torch.testing.assert_close(product.full_tensor(), whole @ whole.t())


def check_tensor_parallel() -> None:
    def train(backend: str) -> Weights:
        model = network()
        plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
        parallelize_module(model, mesh_of(backend), plan)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(STEPS):
            x, y = batch(step, 0)  # the same for all ranks
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        return weights(model)

    trained = require_equal_results(train)
    alone = network()
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1)
    for step in range(STEPS):
        x, y = batch(step, 0)
        optimizer.zero_grad()
        F.cross_entropy(alone(x), y).backward()
        optimizer.step()
    equal(trained, weights(alone), exact=False)


# --- pipelines -----------------------------------------------------------------------------------


def stage_of(rank: int) -> nn.Sequential:
    torch.manual_seed(10 + rank)
    first = nn.Linear(64 if rank == 0 else 32, 32)
    last = [nn.Linear(32, 10)] if rank == SIZE - 1 else []
    return nn.Sequential(first, nn.ReLU(), *last)


def whole_pipeline() -> nn.Sequential:
    return nn.Sequential(*[stage_of(rank) for rank in range(SIZE)])


def gradients_of_one_process(x: torch.Tensor, y: torch.Tensor) -> Weights:
    model = whole_pipeline()
    F.cross_entropy(model(x), y).backward()
    stage = model[RANK]
    return {name: p.grad for name, p in stage.named_parameters() if p.grad is not None}


def gradients_of(stage: nn.Module) -> Weights:
    return {name: p.grad for name, p in stage.named_parameters() if p.grad is not None}


def check_a_pipeline_by_hand_with_tags() -> None:
    """Micro-batches forwards, then backwards; a tag says which one it is."""
    x, y = batch(0, 0)
    parts = 4

    def train(backend: str) -> Weights:
        group, stage, pending, kept = group_of(backend), stage_of(RANK), [], []
        for i, (xs, ys) in enumerate(zip(x.chunk(parts), y.chunk(parts), strict=True)):
            if RANK > 0:
                xs = torch.empty(len(xs), 32)
                dist.recv(xs, RANK - 1, group=group, tag=i)
                xs.requires_grad_()
            out = stage(xs)
            kept.append((xs, ys, out))
            if RANK < SIZE - 1:
                pending.append(dist.isend(out.detach(), RANK + 1, group=group, tag=i))
        for i, (xs, ys, out) in reversed(list(enumerate(kept))):
            if RANK < SIZE - 1:
                grad = torch.empty_like(out)
                dist.recv(grad, RANK + 1, group=group, tag=parts + i)
                out.backward(grad)
            else:
                (F.cross_entropy(out, ys) / parts).backward()
            if RANK > 0:
                pending.append(dist.isend(xs.grad, RANK - 1, group=group, tag=parts + i))
        for work in pending:
            work.wait()
        return gradients_of(stage)

    over_shoal = train("shoal")
    equal(over_shoal, train("gloo"), exact=True)  # nothing is summed
    equal(over_shoal, gradients_of_one_process(x, y), exact=False)


def check_torch_s_pipelines() -> None:
    x, y = batch(0, 0)
    for kind in (ScheduleGPipe, Schedule1F1B):
        found = []
        for backend in ("shoal", "gloo"):
            module = stage_of(RANK)
            stage = PipelineStage(module, RANK, SIZE, torch.device("cpu"), group=group_of(backend))
            schedule = kind(stage, n_microbatches=4, loss_fn=F.cross_entropy)
            if RANK == 0:
                schedule.step(x)
            elif RANK == SIZE - 1:
                schedule.step(target=y)
            else:
                schedule.step()
            found.append(gradients_of(module))
        equal(found[0], found[1], exact=True)
        equal(found[0], gradients_of_one_process(x, y), exact=False)


# --- and what belongs to it ----------------------------------------------------------------------


def check_models_are_saved_and_copied() -> None:
    """Also those whose memory is the pool's."""
    with shoal.torch.pool():
        model = network()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    assert torch.equal(torch.load(file)["0.weight"], model[0].weight)
    assert torch.equal(copy.deepcopy(model)[0].weight, model[0].weight)


if __name__ == "__main__":
    checks.run(globals(), sys.argv[1:])

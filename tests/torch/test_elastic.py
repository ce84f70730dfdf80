"""torchrun restarts a job of which a worker was killed; training resumes from its checkpoint."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Callable

PROGRAM = """\
import faulthandler, os, pathlib, signal, sys
faulthandler.dump_traceback_later(float(os.environ["SHOAL_TEST_LIMIT_S"]), exit=True)
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

torch.set_num_threads(1)
STEPS, DIES_AT = 8, 5
directory = pathlib.Path(sys.argv[1])
checkpoint = directory / "checkpoint.pt"
dist.init_process_group("shoal")
rank, restart = dist.get_rank(), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(20, 20))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
first = 0
if checkpoint.exists():
    state = torch.load(checkpoint)
    model.load_state_dict(state["model"])
    first = state["step"]
print(f"rank {rank}, start {restart}: from step {first}", flush=True)
for step in range(first, STEPS):
    if step == DIES_AT and rank == 1 and restart == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    x = torch.randn(4, 20, generator=torch.Generator().manual_seed(10 * step + rank))
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
    if rank == 0:
        torch.save({"model": model.state_dict(), "step": step + 1}, directory / "new.pt")
        os.replace(directory / "new.pt", checkpoint)
    dist.barrier()
weights = torch.cat([p.detach().flatten() for p in model.parameters()])
everyone = [torch.empty_like(weights) for _ in range(dist.get_world_size())]
dist.all_gather(everyone, weights)
assert all(torch.equal(one, weights) for one in everyone)
if rank == 0:
    print(f"trained, start {restart}: {weights.double().sum():.9f}", flush=True)
dist.destroy_process_group()
"""


def test_training_goes_on_after_a_worker_was_killed(
    tmp_path: pathlib.Path, torchrun: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    program = tmp_path / "train.py"
    program.write_text(PROGRAM)
    result = {}
    for name, options in {"killed": ("--max-restarts", "1"), "undisturbed": ()}.items():
        directory = tmp_path / name
        directory.mkdir()
        if name == "undisturbed":  # the same checkpoints, and nobody dies
            text = program.read_text().replace("DIES_AT = 8, 5", "DIES_AT = 8, 99")
            program.write_text(text)
        done = torchrun(*options, program, directory, limit_s=100)
        result[name] = done.stdout
    assert "rank 0, start 1: from step 5" in result["killed"], result["killed"]
    assert "rank 1, start 1: from step 5" in result["killed"], result["killed"]
    trained = {name: text.split("trained, start ")[1].split()[1] for name, text in result.items()}
    assert trained["killed"] == trained["undisturbed"], result

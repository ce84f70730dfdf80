"""The suites that the torch wheel carries and that take a backend by name, and which tests to run.

A suite gives test classes and names of their tests. World sizes of `distributed` and `all_to_all`
are chosen on the command line; the others state their own in each class.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:  # pip brings the reader that this version lacks
    from pip._vendor import tomli as tomllib

from tests.torch.suites.sources import DISTRIBUTED, INTERNAL

HERE = Path(__file__).parent
Classes = dict[str, tuple[Any, ...]]  # name: what it inherits, leftmost first


@dataclass(frozen=True)
class Suite:
    summary: str
    classes: Callable[[], Classes]
    wanted: Callable[[Any, str], bool] = lambda cls, name: True
    lift_mpi: bool = False
    world_size: int | None = None  # None: as the command line says; else stated by its classes


def _distributed() -> Classes:
    module = importlib.import_module(DISTRIBUTED)
    bases = (module.TestDistBackend, module.DistributedTest._DistTestBase)
    return {"DistributedTest": bases}


def _is_cpu_all_to_all(cls: Any, name: str) -> bool:
    return name.startswith("test_all_to_all") and "cuda" not in name


def _needs_8_ranks(cls: Any, name: str) -> bool:
    return "@skip_if_small_worldsize" in inspect.getsource(getattr(cls, name))


def _rpc(names: Iterable[str]) -> Classes:
    """As rpc_utils.generate_tests combines them: a suite, an agent, and the spawning base."""
    utils = importlib.import_module(INTERNAL + "distributed.rpc_utils")
    fixtures = INTERNAL + "distributed.rpc."
    tensorpipe = importlib.import_module(fixtures + "tensorpipe_rpc_agent_test_fixture")
    faulty = importlib.import_module(fixtures + "faulty_rpc_agent_test_fixture")
    classes: Classes = {}
    for name in names:
        cls = getattr(utils, name)
        agent = (
            faulty.FaultyRpcAgentTestFixture
            if cls in utils.FAULTY_AGENT_TESTS
            else tensorpipe.TensorPipeRpcAgentTestFixture
        )
        classes[name] = (cls, agent, utils.SpawnHelper)
    return classes


def _makes_process_group(cls: Any, name: str) -> bool:
    """Whether the test, or a method of its class that it calls, makes a process group."""
    seen: set[str] = set()
    todo = [name]
    while todo:
        method = todo.pop()
        if method in seen or not inspect.isfunction(getattr(cls, method, None)):
            continue
        seen.add(method)
        source = inspect.getsource(getattr(cls, method))
        if "initialize_pg(" in source or "init_process_group(" in source:
            return True
        todo += re.findall(r"\bself\.(\w+)\(", source)
    return False


_RPC_CLASSES = (
    "RpcTest", "ParameterServerTest", "DistAutogradTest", "DistOptimizerTest", "JitRpcTest",
    "JitDistAutogradTest", "ReinforcementLearningRpcTest", "TensorPipeAgentRpcTest",
    "TensorPipeAgentDistAutogradTest", "FaultyAgentRpcTest", "FaultyAgentDistAutogradTest",
    "JitFaultyAgentRpcTest",
)  # fmt: skip

SUITES: dict[str, Suite] = {
    "distributed": Suite(
        "distributed_test.DistributedTest: collectives, point to point, DDP, join, checkpoints",
        _distributed,
    ),
    "all_to_all": Suite(
        "its all_to_all tests on CPU, which it skips for all but MPI",
        _distributed,
        _is_cpu_all_to_all,
        lift_mpi=True,
    ),
    "subgroups": Suite(
        "its tests of groups of fewer ranks, which it skips below 8 ranks; all_to_all among them",
        _distributed,
        _needs_8_ranks,
        lift_mpi=True,
        world_size=8,
    ),
    "ddp_rpc_6": Suite(
        "DDP under distributed autograd, with TensorPipe RPC beside the process group",
        lambda: _rpc(["DdpUnderDistAutogradTest"]),
        world_size=6,
    ),
    "ddp_rpc_4": Suite(
        "DDP compared under local and distributed autograd",
        lambda: _rpc(["DdpComparisonTest"]),
        world_size=4,
    ),
    "rpc": Suite(
        "those tests of RPC and distributed autograd that make a process group",
        lambda: _rpc(_RPC_CLASSES),
        _makes_process_group,
        world_size=4,
    ),
}
DEFAULT = tuple(SUITES)
SUITES["selfcheck"] = Suite(
    "tests that pass, fail, hang, crash and skip, to see that the runner tells them apart",
    lambda: {"SelfCheck": importlib.import_module("tests.torch.suites.selfcheck").bases()},
)


@dataclass(frozen=True)
class Selection:
    """Which of a suite's tests to run. Empty means all."""

    patterns: tuple[str, ...] = ()
    shard: tuple[int, int] = (1, 1)
    sample: bool = False
    always: frozenset[str] = field(default_factory=frozenset)
    every: int = 1

    @staticmethod
    def read(patterns: Sequence[str], shard: tuple[int, int], sample: bool) -> Selection:
        if not sample:
            return Selection(tuple(patterns), shard)
        listed = tomllib.loads((HERE / "sample.toml").read_text())
        return Selection(tuple(patterns), shard, True, frozenset(listed["always"]), listed["every"])

    def choose(self, tests: Sequence[str]) -> list[str]:
        """Of sorted `Class.test` names: the sample, then what matches, then this shard of it."""
        if self.sample:
            rest = [test for test in tests if test.split(".")[1] not in self.always]
            every = set(rest[:: self.every])
            tests = [test for test in tests if test not in rest or test in every]
        if self.patterns:
            tests = [test for test in tests if any(part in test for part in self.patterns)]
        index, count = self.shard
        return list(tests[index - 1 :: count])


def names(suite: Suite, classes: dict[str, Any]) -> list[str]:
    """All tests of a suite as `Class.test`, sorted."""
    return sorted(
        f"{class_name}.{name}"
        for class_name, cls in classes.items()
        for name in dir(cls)
        if name.startswith("test_") and suite.wanted(cls, name)
    )

"""torch's suites, read so that a backend of another name is treated like gloo.

The suites decide by name what a backend can do: `BACKEND == "gloo"`, lists of names, decorators
with names. Here the modules' source is rewritten while it is imported, in memory only; installed
files stay as they are. Two checks keep that honest when torch changes: a rewrite that finds nothing
is an error, and so is a mention of gloo that no rewrite changed and no exemption names.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import CodeType, ModuleType

INTERNAL = "torch.testing._internal."
DISTRIBUTED = INTERNAL + "distributed.distributed_test"


@dataclass(frozen=True)
class Rewrite:
    """A pattern, and what it becomes: NAME is the backend's name, PROFILED the one its events have.
    Lines keep their number."""

    pattern: str
    becomes: str


# One process runs one backend, so a comparison with another name is a comparison with gloo's place.
_COMPARISON = Rewrite(r'(\bBACKEND (?:==|!=) )"gloo"', r'\1"NAME"')
_DECORATOR = Rewrite(r'(require_backend_is_available\(\{)"gloo"(\}\))', r'\1"NAME"\2')
_PROFILED = Rewrite(r"(?m)^    dist\.Backend\.GLOO,$", '    dist.Backend.GLOO, "PROFILED",')
_CREATED = Rewrite(r'(\bbackend=)"gloo"', r'\1"NAME"')

REWRITES: dict[str, tuple[Rewrite, ...]] = {
    DISTRIBUTED: (_COMPARISON, _DECORATOR, _PROFILED),
    INTERNAL + "dist_utils": (_CREATED,),
    INTERNAL + "distributed.ddp_under_dist_autograd_test": (_CREATED,),
    INTERNAL + "distributed.rpc.rpc_test": (_CREATED,),
}

# gloo is skipped where these say that only MPI can; it has had all_to_all since. Suite all_to_all.
LIFT_MPI = Rewrite(r'\bBACKEND != "mpi",( "Only MPI supports (?:CPU )?all_to_all)', r"False,\1")

# Tests look for events called `<backend>:all_reduce` in the profiler. A backend that is gloo inside
# writes gloo's; listing gloo a second time takes it out of the list of those that write their own.
PROFILED_AS = {"mirror": "gloo"}

# Mentions of gloo that stay, for every backend. What these match is cut out of a line; what is left
# of it must not mention gloo.
EXEMPT = re.compile(
    r"""
    ^\s*\#.*                                             # comments
    | dist\.Backend\.GLOO,\ "\w+",$                      # lists that _PROFILED has extended
    | requires_gloo|is_gloo_available                    # gloo is there; so it is for helper groups
    | \bbackend\ ==\ dist\.Backend\.GLOO                 # other names are found under "plugin"
    | \bdef\ test_\w*                                    # a test's name
    | \b(?:group_gloo|gloo_pg|send_op_gloo)\b            # helper groups, gloo beside any backend
    | \bbackend=dist\.Backend\.GLOO                      # the same
    | \(ranks=\[0,\ 1\],\ backend="gloo"\)               # the same, in a test for NCCL
    | dist\.Backend\(\["gloo"\]\)                        # a list in place of a name must be refused
    | "(?:Only|GLOO|Gloo|get_future)[^"]*"               # reasons given for a skip
    | ddp_logging_data\.get\("backend_name"\)\ ==\ "gloo" # gloo's own settings, in DDP's log
    | "gloo_\w+" | "GLOO_\w+" | default_gloo_threads     # the same
    """,
    re.VERBOSE,
)


def rewrite(source: str, rewrites: Sequence[Rewrite], backend: str, where: str) -> str:
    """The source with every rewrite applied. Raises if one finds nothing or a mention is left."""
    profiled = PROFILED_AS.get(backend, backend)
    for one in rewrites:
        becomes = one.becomes.replace("NAME", backend).replace("PROFILED", profiled)
        source, count = re.subn(one.pattern, becomes, source)
        if count == 0:
            raise LookupError(f"{where}: nothing matches {one.pattern!r}; has torch changed?")
    return source


def check_mentions(source: str, where: str) -> None:
    """Raises if a line still depends on gloo's name."""
    for number, line in enumerate(source.splitlines(), 1):
        if "gloo" in EXEMPT.sub("", line).lower():
            raise LookupError(
                f"{where}:{number}: gloo is mentioned where no rewrite or exemption expects it: "
                f"{line.strip()!r}; look at it, then extend REWRITES or EXEMPT"
            )


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles rewritten source; never reads or writes bytecode."""

    def __init__(self, name: str, path: str, rewrites: Sequence[Rewrite], backend: str) -> None:
        super().__init__(name, path)
        self.rewrites, self.backend = rewrites, backend

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_source(fullname)
        assert source is not None
        source = rewrite(source, self.rewrites, self.backend, fullname)
        if self.backend != "gloo":
            check_mentions(source, fullname)
        return compile(source, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, rewrites: dict[str, tuple[Rewrite, ...]], backend: str) -> None:
        self.rewrites, self.backend = rewrites, backend

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.rewrites:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert found is not None and found.origin is not None, fullname
        loader = _Loader(fullname, found.origin, self.rewrites[fullname], self.backend)
        return importlib.util.spec_from_file_location(fullname, found.origin, loader=loader)


def install(backend: str, lift_mpi: bool = False) -> None:
    """From now on this process imports the suites rewritten for `backend`. Call it once, first."""
    early = sorted(set(REWRITES) & set(sys.modules))
    if early:
        raise RuntimeError(f"imported before they could be rewritten: {early}")
    rewrites = dict(REWRITES) if backend != "gloo" else {}
    if lift_mpi:
        rewrites[DISTRIBUTED] = (*rewrites.get(DISTRIBUTED, ()), LIFT_MPI)
    sys.meta_path.insert(0, _Finder(rewrites, backend))
    if backend != "gloo":
        _extend_lists(backend)


def _extend_lists(backend: str) -> None:
    """In torch's lists of what backends can do, `backend` stands wherever gloo does."""
    cases = importlib.import_module(INTERNAL + "common_distributed").DistTestCases
    lists = [*cases.backend_feature.values(), *cases.skip_collective.values()]
    with_gloo = [names for names in lists if "gloo" in names]
    if not with_gloo:
        raise LookupError("DistTestCases lists gloo nowhere; has torch changed?")
    for names in with_gloo:
        names.add(backend)
    # With this, require_backend_is_available does not ask whether torch has it built in.
    cases.backend_feature["plugin"].add(backend)

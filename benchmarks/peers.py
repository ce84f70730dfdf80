"""The other libraries: from package registries, each in an environment of its own, each with the
settings that its manual recommends for the case.

    Open MPI   pml ob1 with btl sm, self and tcp (docs.open-mpi.org, "Networking support"); pml ucx
               needs opal_common_ucx_tls=any where there is no InfiniBand (the same, "UCX"). More
               ranks than cores: mpi_yield_when_idle ("Oversubscription").
    MPICH      more ranks than cores: the three variables that its own CI sets for that case
               (.github/workflows/ci-workflow.yml); what they do is in `mpivars`.
    Intel MPI  I_MPI_FABRICS=shm in one node, shm:ofi with the provider tcp over Ethernet; more
               ranks than cores: I_MPI_WAIT_MODE (Developer Reference, "Other Environment
               Variables").
    oneCCL     transport ofi with shared memory, and no worker thread, since a rank has one core:
               the fastest of what was tried (Developer Guide, "Environment Variables").
    Gloo       GLOO_SOCKET_IFNAME (pytorch.org, "Distributed communication package").
"""

from __future__ import annotations

from abc import abstractmethod

from .cells import Cell
from .libraries import Library, Line, Placement, Process
from .workshop import DRIVERS, Workshop


class _Mpi(Library):
    """An MPI: drivers/mpi.c, compiled with its header and library."""

    is_peer = True
    package: str  # the environment's name
    requirements: tuple[str, ...]

    def make(self, workshop: Workshop) -> None:
        self._root = workshop.environment(self.package, self.requirements)
        include, library = self._root / "include", self._root / "lib"
        flags = [f"-I{include}", f"-L{library}", "-lmpi", f"-Wl,-rpath,{library}"]
        self._driver = workshop.compile(self.package, "mpi.c", flags)

    def buffers(self, placement: Placement, cell: Cell) -> tuple[str, ...]:
        shared = cell.bytes > 0 and placement.hosts is None
        return ("private", "window") if shared else ("private",)

    def processes(self, placement: Placement, line: Line) -> list[Process]:
        hosts = placement.hosts
        words = hosts.as_host(0) if hosts else []
        words += [str(self._root / "bin" / "mpiexec"), "-n", str(placement.ranks)]
        words += [*self.launcher(placement), *self.options(placement)]
        words += [str(self._driver), str(line.socket), self.name]
        return [Process(words, {**self.environment(placement), **self.paths(placement)})]

    def settings(self, placement: Placement) -> str:
        words = [f"{name}={value}" for name, value in self.environment(placement).items()]
        return " ".join([*words, *self.options(placement)])

    def launcher(self, placement: Placement) -> list[str]:
        """Hydra's options: where ranks run, and what takes the place of ssh."""
        hosts = placement.hosts
        if hosts is None:
            return []
        where = ["-hosts", ",".join(hosts.addresses), "-ppn", str(placement.ranks // 2)]
        return ["-launcher", "ssh", "-launcher-exec", str(hosts.agent), *where]

    def options(self, placement: Placement) -> list[str]:
        """Of the library, on the command line."""
        del placement
        return []

    def environment(self, placement: Placement) -> dict[str, str]:
        """Of the library, by variables."""
        del placement
        return {}

    def paths(self, placement: Placement) -> dict[str, str]:
        """Variables that say where its parts lie."""
        del placement
        return {}


class OpenMpi(_Mpi):
    name = "openmpi"
    package = "openmpi"
    requirements = ("openmpi==5.*",)

    def launcher(self, placement: Placement) -> list[str]:
        # The harness binds ranks to cores. Root, as in a container, has to be allowed.
        words = ["--allow-run-as-root", "--bind-to", "none", "--oversubscribe"]
        if placement.hosts:
            each = placement.ranks // 2
            where = ",".join(f"{address}:{each}" for address in placement.hosts.addresses)
            words += ["--host", where, "--prtemca", "plm_ssh_agent", str(placement.hosts.agent)]
        for name in self.environment(placement):
            words += ["-x", name]
        return words

    def options(self, placement: Placement) -> list[str]:
        crowded = ["--mca", "mpi_yield_when_idle", "1"] if placement.is_crowded else []
        return [*self.transport(placement), *crowded]

    def transport(self, placement: Placement) -> list[str]:
        words = ["--mca", "pml", "ob1", "--mca", "btl"]
        if placement.hosts is None:
            return [*words, "sm,self"]
        return [*words, "tcp,sm,self", "--mca", "btl_tcp_if_include", placement.hosts.link]


class OpenMpiUcx(OpenMpi):
    name = "openmpi-ucx"

    def transport(self, placement: Placement) -> list[str]:
        del placement
        words = ["--mca", "pml", "ucx", "--mca", "opal_common_ucx_tls", "any"]
        return [*words, "--mca", "opal_common_ucx_devices", "any"]

    def environment(self, placement: Placement) -> dict[str, str]:
        return {"UCX_NET_DEVICES": placement.hosts.link} if placement.hosts else {}


class Mpich(_Mpi):
    name = "mpich"
    package = "mpich"
    requirements = ("mpich==5.*",)

    def environment(self, placement: Placement) -> dict[str, str]:
        settings = {}
        if placement.hosts:
            settings["UCX_NET_DEVICES"] = placement.hosts.link
        if placement.is_crowded:
            settings["MPIR_CVAR_POLLS_BEFORE_YIELD"] = "1"
            settings["MPIR_CVAR_CH4_PROGRESS_THROTTLE"] = "true"
            settings["MPIR_CVAR_CH4_PROGRESS_THROTTLE_NO_PROGRESS_COUNT"] = "1"
        return settings


class IntelMpi(_Mpi):
    name = "intelmpi"
    package = "intelmpi"
    requirements = ("impi-rt==2021.*", "impi-devel==2021.*")

    def environment(self, placement: Placement) -> dict[str, str]:
        settings = {"I_MPI_FABRICS": "shm", "I_MPI_PIN": "0"}
        if placement.hosts:
            settings |= {
                "I_MPI_FABRICS": "shm:ofi",
                "I_MPI_OFI_PROVIDER": "tcp",
                "FI_TCP_IFACE": placement.hosts.link,
            }
        if placement.is_crowded:
            settings["I_MPI_WAIT_MODE"] = "1"
        return settings

    def paths(self, placement: Placement) -> dict[str, str]:
        library = str(self._root / "lib")  # libfabric and its providers are loaded on demand
        return {"FI_PROVIDER_PATH": library, "LD_LIBRARY_PATH": library} if placement.hosts else {}


class _OneProcessARank(Library):
    """A peer without a launcher: its ranks meet through a file."""

    is_peer = True
    requirements: tuple[str, ...]

    def buffers(self, placement: Placement, cell: Cell) -> tuple[str, ...]:
        del placement, cell
        return ("private",)

    def processes(self, placement: Placement, line: Line) -> list[Process]:
        meeting = str(line.folder / f"{self.name}-ranks")
        return [
            Process(
                [*self.inside(placement, rank), *self.driver(), str(line.socket), self.name,
                 str(rank), str(placement.ranks), meeting],
                {**self.environment(placement), **self.identity(placement, rank)},
            )
            for rank in range(placement.ranks)
        ]  # fmt: skip

    def settings(self, placement: Placement) -> str:
        settings = self.environment(placement)
        return " ".join(f"{name}={value}" for name, value in settings.items())

    def inside(self, placement: Placement, rank: int) -> list[str]:
        return placement.hosts.inside(rank, placement.ranks) if placement.hosts else []

    @abstractmethod
    def driver(self) -> list[str]: ...

    @abstractmethod
    def environment(self, placement: Placement) -> dict[str, str]: ...

    def identity(self, placement: Placement, rank: int) -> dict[str, str]:
        """Variables that say who a rank is, and where the library's parts lie."""
        del placement, rank
        return {}


class Gloo(_OneProcessARank):
    """torch.distributed's backend for CPUs (drivers/gloo.py); it is TCP in one node too."""

    name = "gloo"
    # This version is a CPU build on PyPI; others bring CUDA along.
    requirements = ("torch==2.13.0", "numpy")

    def make(self, workshop: Workshop) -> None:
        self._root = workshop.environment(self.name, self.requirements)
        self._harness = workshop.harness()

    def driver(self) -> list[str]:
        python = self._root / "bin" / "python"
        return [str(python), str(DRIVERS / "gloo.py"), str(self._harness)]

    def environment(self, placement: Placement) -> dict[str, str]:
        return {"GLOO_SOCKET_IFNAME": placement.hosts.link if placement.hosts else "lo"}


class OneCcl(_OneProcessARank):
    name = "oneccl"
    requirements = ("oneccl-devel==2022.*",)

    def make(self, workshop: Workshop) -> None:
        self._root = workshop.environment(self.name, self.requirements)
        include, library = self._root / "include", self._root / "lib"
        flags = [f"-I{include}", f"-L{library}", "-l:libccl.so.1", f"-Wl,-rpath,{library}"]
        # What libccl needs itself is beside it, and found at run time (paths).
        flags += ["-Wl,--unresolved-symbols=ignore-in-shared-libs"]
        self._driver = workshop.compile(self.name, "oneccl.cc", flags)

    def driver(self) -> list[str]:
        return [str(self._driver)]

    def environment(self, placement: Placement) -> dict[str, str]:
        hosts = placement.hosts
        settings = {"CCL_ATL_TRANSPORT": "ofi", "CCL_ATL_SHM": "0" if hosts else "1"}
        settings["CCL_WORKER_OFFLOAD"] = "0"
        if hosts:
            settings |= {"CCL_KVS_IFACE": hosts.link, "FI_PROVIDER": "tcp"}
            settings |= {"FI_TCP_IFACE": hosts.link}
        if placement.is_crowded:
            settings["CCL_YIELD"] = "sched_yield"
        return settings

    def identity(self, placement: Placement, rank: int) -> dict[str, str]:
        library = str(self._root / "lib")
        local = placement.ranks // 2 if placement.hosts else placement.ranks
        return {
            "CCL_PROCESS_LAUNCHER": "none",
            "CCL_LOCAL_RANK": str(rank % local),
            "CCL_LOCAL_SIZE": str(local),
            "CCL_LOG_LEVEL": "error",
            "FI_PROVIDER_PATH": library,
            "LD_LIBRARY_PATH": library,
        }


PEERS: tuple[type[Library], ...] = (OpenMpi, OpenMpiUcx, Mpich, IntelMpi, OneCcl, Gloo)

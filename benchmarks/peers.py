"""The other libraries: from package registries, each in an environment of its own, each with the
settings that its manual recommends for the case."""

from __future__ import annotations

from .libraries import Library, Line, Placement, Process
from .workshop import Workshop


class _Mpi(Library):
    """An MPI: drivers/mpi.c, compiled with its header and library."""

    is_peer = True
    buffers = ("private", "window")
    environment_name: str
    packages: tuple[str, ...]

    def make(self, workshop: Workshop) -> None:
        self._root = workshop.environment(self.environment_name, self.packages)
        include, library = self._root / "include", self._root / "lib"
        flags = [f"-I{include}", f"-L{library}", "-lmpi", f"-Wl,-rpath,{library}"]
        self._driver = workshop.compile(self.environment_name, "mpi.c", flags)

    def processes(self, placement: Placement, line: Line) -> list[Process]:
        driver = [str(self._driver), str(line.socket), self.name]
        words = [*self.launcher(placement), *self.options(placement), *driver]
        return [Process(words, self.environment(placement))]

    def settings(self, placement: Placement) -> str:
        words = [f"{name}={value}" for name, value in self.environment(placement).items()]
        return " ".join([*words, *self.options(placement)])

    def launcher(self, placement: Placement) -> list[str]:
        return [str(self._root / "bin" / "mpiexec"), "-n", str(placement.ranks)]

    def options(self, placement: Placement) -> list[str]:
        del placement
        return []

    def environment(self, placement: Placement) -> dict[str, str]:
        del placement
        return {}


class OpenMpi(_Mpi):
    name = "openmpi"
    environment_name = "openmpi"
    packages = ("openmpi==5.*",)
    pml: tuple[str, ...] = ("--mca", "pml", "ob1", "--mca", "btl", "sm,self")

    def launcher(self, placement: Placement) -> list[str]:
        # The harness binds ranks to cores. Root, as in a container, has to be allowed.
        words = ["--allow-run-as-root", "--bind-to", "none", "--oversubscribe"]
        return [*super().launcher(placement), *words]

    def options(self, placement: Placement) -> list[str]:
        crowded = ("--mca", "mpi_yield_when_idle", "1") if placement.is_crowded else ()
        return [*self.pml, *crowded]


class OpenMpiUcx(OpenMpi):
    name = "openmpi-ucx"
    pml = ("--mca", "pml", "ucx")


class Mpich(_Mpi):
    name = "mpich"
    environment_name = "mpich"
    packages = ("mpich==5.*",)


class IntelMpi(_Mpi):
    name = "intelmpi"
    environment_name = "intelmpi"
    packages = ("impi-rt==2021.*", "impi-devel==2021.*")

    def environment(self, placement: Placement) -> dict[str, str]:
        crowded = {"I_MPI_WAIT_MODE": "1"} if placement.is_crowded else {}
        return {"I_MPI_FABRICS": "shm", "I_MPI_PIN": "0", **crowded}


PEERS: tuple[type[Library], ...] = (OpenMpi, OpenMpiUcx, Mpich, IntelMpi)

"""harness.h for drivers in Python: the same C code, by ctypes. Run as a script's neighbour."""

from __future__ import annotations

import ctypes
import sys
import time
import traceback
from collections.abc import Callable

import numpy as np

# As enum op has them; a driver in Python does these.
OPS = ("barrier", "broadcast", "all_reduce", "all_gather", "reduce_scatter", "all_to_all")

Call = Callable[[], object]


class Cell(ctypes.Structure):
    """struct cell."""

    _fields_ = (
        ("op", ctypes.c_int),
        ("bytes", ctypes.c_size_t),
        ("buffer", ctypes.c_char * 16),
        ("count", ctypes.c_size_t),
        ("in_count", ctypes.c_size_t),
        ("out_count", ctypes.c_size_t),
        ("input", ctypes.POINTER(ctypes.c_float)),
        ("output", ctypes.POINTER(ctypes.c_float)),
    )


_Prepare = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(Cell))
_Release = ctypes.CFUNCTYPE(None, ctypes.POINTER(Cell))
_TimeBlock = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.POINTER(Cell), ctypes.c_int64)


class _Library(ctypes.Structure):
    """struct library."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("version", ctypes.c_char_p),
        ("rank", ctypes.c_int),
        ("ranks", ctypes.c_int),
        ("prepare", _Prepare),
        ("release", _Release),
        ("time_block", _TimeBlock),
    )


class Driver:
    """A library to be timed. `arrays` gives its own kinds of memory, `call` what is to be timed."""

    def __init__(self, name: str, version: str, rank: int, ranks: int) -> None:
        self.name, self.version, self.rank, self.ranks = name, version, rank, ranks
        self._call: Call | None = None
        self._refusal = ctypes.create_string_buffer(0)

    def arrays(self, buffer: str, in_count: int, out_count: int) -> tuple[np.ndarray, np.ndarray]:
        """Input and output in memory of this kind. Raises ValueError: there is no such memory."""
        raise ValueError(f"no buffer {buffer}")

    def call(self, op: str, source: np.ndarray, target: np.ndarray) -> Call:
        raise NotImplementedError

    def before_block(self) -> None:
        """What a block of calls needs, outside the time."""

    def serve(self, harness: str, socket: str) -> int:
        library = _Library(
            self.name.encode(), self.version.encode(), self.rank, self.ranks,
            _Prepare(self._prepare), _Release(self._release), _TimeBlock(self._time_block),
        )  # fmt: skip
        serve = ctypes.CDLL(harness).harness_serve
        return int(serve(socket.encode(), ctypes.byref(library)))

    def _prepare(self, cell: ctypes._Pointer[Cell]) -> int | None:
        c = cell.contents
        try:
            if c.input:
                source, target = _view(c.input, c.in_count), _view(c.output, c.out_count)
            else:
                source, target = self.arrays(c.buffer.decode(), c.in_count, c.out_count)
                c.input, c.output = _pointer(source), _pointer(target)
            self._call = self.call(OPS[c.op], source, target)
        except Exception as error:  # over there it is one line of text
            text = f"{type(error).__name__}: {error}".splitlines()[0]
            self._refusal = ctypes.create_string_buffer(text.encode())
            return ctypes.addressof(self._refusal)
        return None

    def _release(self, cell: ctypes._Pointer[Cell]) -> None:
        del cell
        self._call = None

    def _time_block(self, cell: ctypes._Pointer[Cell], block: int) -> int:
        del cell
        call = self._call
        assert call is not None
        try:
            self.before_block()
            start = time.perf_counter_ns()
            for _ in range(block):
                call()
            return time.perf_counter_ns() - start
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return -1


def _view(pointer: ctypes._Pointer[ctypes.c_float], count: int) -> np.ndarray:
    return np.ctypeslib.as_array(pointer, (count,))


def _pointer(array: np.ndarray) -> ctypes._Pointer[ctypes.c_float]:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(ctypes.c_float))

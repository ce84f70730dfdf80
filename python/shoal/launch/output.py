r"""Lines of many ranks on one terminal or in one log.

A line is written whole, behind its rank: ``[2] epoch 3``. A carriage return starts a line over (a
progress bar): a log gets only what a terminal would show in the end; on a terminal the newest bar
stays live below the lines that pass it by.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import BinaryIO

MAX_LINE_BYTES = 1 << 16  # a longer one is written in pieces
_CLEAR = b"\r\x1b[K"
# One rank must not move the cursor into the lines of another. Colours may pass.
_CURSOR = re.compile(rb"\x1b\[[0-9;]*[A-HJKSTf]")

Prefix = Callable[[int], bytes]


def shown(text: bytes) -> bytes:
    r"""What a terminal shows of a line with carriage returns: b"10%\r20%\r" -> b"20%"."""
    parts = [part for part in text.split(b"\r") if part]
    return _CURSOR.sub(b"", parts[-1]) if parts else b""


def numbered(rank: int) -> bytes:
    return b"[%d] " % rank


def bare(_rank: int) -> bytes:
    return b""


class Console:
    """One thread. Raises BrokenPipeError when nobody reads any more (``| head``)."""

    def __init__(self, prefix: Prefix, out: BinaryIO, err: BinaryIO) -> None:
        self._prefix = prefix
        self._sinks = {"stdout": out, "stderr": err}
        self._pending: dict[tuple[int, str], bytes] = {}
        self._live: tuple[BinaryIO, bytes] | None = None
        self._muted = False

    def write(self, rank: int, stream: str, data: bytes) -> None:
        *lines, rest = (self._pending.pop((rank, stream), b"") + data).split(b"\n")
        if lines:
            prefix = self._prefix(rank)
            self._put(self._sinks[stream], b"\n".join(prefix + shown(line) for line in lines))
        while len(rest) > MAX_LINE_BYTES and b"\r" not in rest:
            self._line(rank, stream, rest[:MAX_LINE_BYTES])
            rest = rest[MAX_LINE_BYTES:]
        if b"\r" in rest:
            # Keep the newest state only; what comes next may extend or replace it.
            over = b"\r" if rest.endswith(b"\r") else b""
            rest = b"\r" + shown(rest)[:MAX_LINE_BYTES] + over
            self._show_live(rank, stream, rest.strip(b"\r"))
        if rest:
            self._pending[rank, stream] = rest

    def finish(self, rank: int) -> None:
        """The rank has ended: what lacks a newline is written now."""
        for stream in self._sinks:
            rest = shown(self._pending.pop((rank, stream), b""))
            if rest:
                self._line(rank, stream, rest)

    def say(self, text: str) -> None:
        """A line of the launcher's own."""
        self._put(self._sinks["stderr"], text.encode(errors="replace"))

    def _line(self, rank: int, stream: str, text: bytes) -> None:
        self._put(self._sinks[stream], self._prefix(rank) + text)

    def _put(self, sink: BinaryIO, line: bytes) -> None:
        if self._muted:
            return
        if self._live:
            self._live[0].write(_CLEAR)
            self._live[0].flush()
        sink.write(line + b"\n")
        sink.flush()
        self._draw()

    def _show_live(self, rank: int, stream: str, text: bytes) -> None:
        sink = self._sinks[stream]
        if self._muted or not sink.isatty():
            return
        self._live = (sink, (self._prefix(rank) + text)[: _columns(sink)])
        self._draw()

    def _draw(self) -> None:
        if self._live is None:
            return
        sink, text = self._live
        sink.write(_CLEAR + text)
        sink.flush()

    def mute(self) -> None:
        """Nobody reads: from now on nothing is written."""
        self._live = None
        self._muted = True

    def close(self) -> None:
        if self._live:
            self._live[0].write(_CLEAR)
            self._live[0].flush()
            self._live = None


def _columns(sink: BinaryIO) -> int:
    try:
        return max(20, os.get_terminal_size(sink.fileno()).columns - 1)
    except OSError:
        return 79


def console(prefix: Prefix) -> Console:
    return Console(prefix, sys.stdout.buffer, sys.stderr.buffer)

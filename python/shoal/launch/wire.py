"""The launcher and its agents speak JSON, one object a line, each with a ``type``.

    to the agent     start (the HostJob), signal (number)
    from the agent   ready, started (rank, pid), output (rank, stream, data), ended (RankExit),
                     error (text)

The end of the agent's input means: the launcher is gone, kill the ranks.
"""

from __future__ import annotations

import json
from typing import Any

MAX_LINE_BYTES = 1 << 22  # more is not from us


def encode(kind: str, **values: Any) -> bytes:
    return json.dumps({"type": kind, **values}).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any] | None:
    """None: not one of our lines (a greeting of the login shell)."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) and "type" in message else None


def text_of(data: bytes) -> str:
    """Bytes of any encoding as JSON text, and back by bytes_of()."""
    return data.decode(errors="surrogateescape")


def bytes_of(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


class Lines:
    """Cuts a stream of bytes into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise ValueError(f"a line of more than {MAX_LINE_BYTES} bytes")
        return lines

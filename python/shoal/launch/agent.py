"""One host's ranks, driven from another: `python -m shoal.launch.agent`.

JSON lines. In: first the job {"job": {...}, "secret": ..., "name": ...}, then {"signal": N}; the end
of input (the launcher is gone) kills the ranks. Out: one line per event, {"kind": "Output", ...}.
The secret comes this way and is on no command line.
"""

from __future__ import annotations

import dataclasses
import json
import queue
import signal
import sys
import threading

from shoal.launch.host import Event, Exited, Job, LocalHost, Lost


def _send(event: Event) -> None:
    message = {"kind": type(event).__name__, **dataclasses.asdict(event)}
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _obey(host: LocalHost) -> None:
    """Until the launcher closes our input."""
    for line in sys.stdin:
        host.signal(int(json.loads(line)["signal"]))
    host.close()


def main() -> int:
    # A terminal's Ctrl-C is for the launcher, which passes it on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    first = json.loads(sys.stdin.readline())
    job = Job(**first["job"])
    events: queue.Queue[Event] = queue.Queue()
    host = LocalHost(job, first["secret"], first["name"], events)
    host.start()
    threading.Thread(target=_obey, args=(host,), daemon=True).start()
    running = len(job.ranks)
    while running > 0:
        event = events.get()
        _send(event)
        running -= isinstance(event, Exited)
        if isinstance(event, Lost):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

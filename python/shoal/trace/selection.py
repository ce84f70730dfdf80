"""The jobs that a command is about, and their pages: one for all that looks at them."""

from __future__ import annotations

import threading
import time

from shoal.pages import Node, Page

LOOK_S = 2.0  # between searches for new jobs


class Selection:
    """Which jobs: all, one by its id, or that of one process. Any thread."""

    def __init__(self, job: str | None, pid: int | None) -> None:
        self._pid = pid
        self._lock = threading.Lock()
        self._node = Node(job)
        self._looked = time.monotonic()

    def read(self) -> dict[str, list[Page]]:
        """The pages of each job."""
        jobs: dict[str, list[Page]] = {}
        for page in self._read():
            jobs.setdefault(page.job, []).append(page)
        if self._pid is None:
            return jobs
        return {job: pages for job, pages in jobs.items() if any(p.pid == self._pid for p in pages)}

    def _read(self) -> list[Page]:
        with self._lock:
            if time.monotonic() - self._looked > LOOK_S:
                self._node.look()
                self._looked = time.monotonic()
            return self._node.read()

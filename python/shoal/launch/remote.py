"""A host that is reached through a remote agent command, such as ssh."""

from __future__ import annotations

import dataclasses
import json
import queue
import shlex
import subprocess
import sys
import threading

from shoal.launch.host import Event, Exited, Job, Lost, Output, Started

_KINDS = {"Output": Output, "Started": Started, "Exited": Exited}


class RemoteHost:
    """Runs `<agent> <python> -m shoal.launch.agent` and speaks JSON lines with it."""

    def __init__(
        self, job: Job, secret: str, name: str, agent: str, events: queue.Queue[Event]
    ) -> None:
        self._job = job
        self._secret = secret
        self._name = name
        self._command = [
            *(part.format(host=name) for part in shlex.split(agent)),
            sys.executable,
            "-m",
            "shoal.launch.agent",
        ]
        self._events = events
        self._process: subprocess.Popen[str] | None = None
        self._errors: list[str] = []
        self._running = set(job.ranks)

    def start(self) -> None:
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        except OSError as error:
            self._lost(f"cannot start {self._command[0]}: {error.strerror}")
            return
        first = {
            "job": dataclasses.asdict(self._job),
            "secret": self._secret,
            "name": self._name,
        }
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._collect_errors, daemon=True).start()
        self._write(first)

    def signal(self, number: int) -> None:
        self._write({"signal": number})

    def close(self) -> None:
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            try:
                process.stdin.close()
            except OSError:
                pass  # it is gone already
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()

    def _write(self, message: object) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            pass  # the agent is gone: _listen() says so

    def _collect_errors(self) -> None:
        assert self._process is not None and self._process.stderr is not None
        for line in self._process.stderr:
            self._errors.append(line.rstrip())
            del self._errors[:-20]

    def _listen(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            try:
                message = json.loads(line)
                kind = message.pop("kind")
            except (ValueError, KeyError, AttributeError):
                self._errors.append(line.rstrip())  # a login banner, say
                continue
            if kind == "Lost":
                self._lost(message["reason"])
                return
            event = _KINDS[kind](**message)
            if isinstance(event, Exited):
                self._running.discard(event.rank)
            self._events.put(event)
        if self._running:
            code = self._process.wait()
            said = "; it said: " + " | ".join(self._errors[-5:]) if self._errors else ""
            self._lost(f"`{shlex.join(self._command)}` ended with code {code}{said}")

    def _lost(self, reason: str) -> None:
        self._events.put(Lost(self._name, reason))

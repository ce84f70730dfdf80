"""A cause and its evidence: what the parts of a verdict hand to one another."""

from __future__ import annotations

from dataclasses import dataclass

CAUSES = (
    "stopped", "frozen", "throttled", "preempted", "sleeping", "computing", "blocked",
    "page_faults", "slow_syscall", "memory_registration", "slow_receiver", "packet_loss",
    "congestion", "link_down", "qp_error", "receiver_not_ready", "died", "deadlock", "unknown",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    cause: str
    evidence: tuple[str, ...]
    missing: tuple[str, ...] = ()
    provisional: bool = False

    def after(self, *evidence: str) -> Finding:
        """The same, with evidence that goes before its own."""
        return Finding(self.cause, (*evidence, *self.evidence), self.missing, self.provisional)


def in_ms(ns: int) -> str:
    return f"{ns / 1e6:.0f} ms"


def share(ns: float, window_ns: int) -> str:
    return f"{100 * ns / window_ns:.0f} % of {in_ms(window_ns)}"

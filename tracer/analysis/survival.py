"""Which silences count as survived, and which as fatal. One set of rules for live stalls and for recorded ones."""

from __future__ import annotations

from tracer.analysis.evidence import CHANCE
from tracer.analysis.outcomes import Outcome
from tracer.analysis.verdicts import Verdict
from tracer.model.events import Event
from tracer.model.kinds import Kind

MS = 1_000_000

EMPTY_SEGMENTS = frozenset({"keepalive", "probe", "answer", "ack"})
"""Causes of a `resume` by a segment that has no data and acknowledges none."""
_NOT_LOST = (None, "Open", "CWR")
"""Values of ca_state without loss. A connection stays in CWR while it is idle (RFC 3168)."""


def is_fatal(verdict: Verdict | None, outcome: Outcome | None, idle_ms: int | None, retransmits: int) -> bool:
    """Whether the silence before a stall (idle_ms) counts as fatal, from the stall's end.

    A connection that was still open, or that its application closed, counts from CHANCE unanswered segments on. A
    presumed outcome is not evidence.
    """
    if idle_ms is None or verdict is None or outcome is None or not verdict.blames_idleness:
        return False
    return outcome.is_death or (outcome.is_undecided and retransmits >= CHANCE)


def survived_silence_ms(event: Event, probed_ns: int | None = None) -> int | None:
    """The silence that the connection of a `resume` event survived, milliseconds; None where it proves none.

    probed_ns: when the peer's latest keepalive probe came (CLOCK_BOOTTIME), because the kernel's own clock of silence
    ignores such probes. The time for which data waited for its acknowledgement or for an open window (stuck_ms) is
    not idle. An event without stuck_ms counts only if no data waited.
    """
    if event.event != Kind.RESUME or event.silent_ms is None or event.cause == "no-progress":
        return None
    if event.stuck_ms is None and (event.ca_state not in _NOT_LOST or event.backoff or event.cause == "window"):
        return None
    silent_ms = event.silent_ms
    if probed_ns is not None:
        silent_ms = min(silent_ms, max(0, event.ktime_ns - probed_ns) // MS)
    survived_ms = silent_ms if event.stuck_ms is None else silent_ms - event.stuck_ms
    return survived_ms if survived_ms >= 0 else None

"""The values of all metrics at one instant. A snapshot never changes, so any thread may read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tracer.model.dataclass import dataclass
from tracer.output.metrics.services import Label

DURATIONS_S = (1, 5, 10, 30, 60, 120, 300, 600, 900, 1800, 3600)
"""Upper bounds of the buckets of a stall's duration, seconds. A stall of the default tcp_retries2 takes 924 s."""
SEGMENT_KINDS = ("tlp", "rto", "fast", "syn", "synack", "fin")
"""Kinds of retransmission that have a counter from the start."""


class Ended(NamedTuple):
    """Stalls that are counted together."""

    label: Label
    verdict: str
    outcome: str


class Durations(NamedTuple):
    """Durations of ended stalls. counts: by bucket, not cumulative, the last without a bound. sum_s: seconds."""

    counts: Sequence[int]
    sum_s: float


@dataclass(frozen=True)
class Snapshot:
    """The values. Times in seconds; gives_up_s is Unix time.

    at_risk: None where it is not known, because received segments are not traced. hooks: whether each is attached.
    unexported: log records that the OTLP receiver did not get, by reason; None without a receiver.
    """

    version: str
    kernel: str
    hooks: Mapping[str, bool]
    lost: Mapping[str, int]
    segments: Mapping[str, int]
    keepalives: int
    ended: Mapping[Ended, int]
    durations: Mapping[Label, Durations]
    open_stalls: Mapping[tuple[Label, str], int]  # by verdict
    stuck_bytes: Mapping[Label, int]
    gives_up_s: Mapping[Label, float]
    survived_s: Mapping[Label, float]
    fatal_s: Mapping[Label, float]
    at_risk: Mapping[Label, int] | None
    unexported: Mapping[str, int] | None

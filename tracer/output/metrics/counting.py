"""Events → the values of metrics: a sink that publishes a snapshot of them about once a second.

The counts are those of a report of the same events: an end without evidence counts when nothing revokes it any more.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence

from tracer.analysis.idle_timeouts import service_of
from tracer.analysis.outcomes import WITHOUT_EVIDENCE, Outcome
from tracer.model.counts import counts_of
from tracer.model.events import Event
from tracer.model.kinds import Kind
from tracer.output.metrics.open_stalls import OpenStalls
from tracer.output.metrics.services import OTHER, Label, Silences
from tracer.output.metrics.snapshot import DURATIONS_S, SEGMENT_KINDS, Durations, Ended, Snapshot
from tracer.recordings.header import Header

PUBLISH_EVERY_S = 1.0
MAX_SHARE = 0.02
"""The share of a core that snapshots may take. With tens of thousands of open stalls there are fewer of them."""
HELD_NS = 300_000_000_000
"""How long an end without evidence is held: twice the longest RTO, and more than the interval of keepalive probes."""
MAX_HELD = 8192
MAX_AT_RISK = 16384
"""Connections that are counted as at risk."""
MAX_HOOKS = 64
MAX_KINDS = 32
_ENDS_SILENCE = frozenset(kind.value for kind in (Kind.RESUME, Kind.STATE, Kind.ERROR, Kind.RESET, Kind.STALL))
"""Kinds of event after which a silent connection is alive, dead, or an open stall."""


class MetricsSink:
    """Counts events. `latest` is the newest snapshot; any thread may read it.

    silences: the stall tracker's idle timeouts. min_idle_ms: the tracker's. hooks: whether each is attached.
    sees_resumes: received segments are traced. unexported: counts the log records that the OTLP receiver did not get,
    by reason; None without one. It has to get every event of the connections that are traced.
    """

    def __init__(
        self,
        silences: Silences,
        *,
        min_idle_ms: int,
        hooks: Mapping[str, bool],
        version: str,
        kernel: str,
        sees_resumes: bool = True,
        unexported: Callable[[], Mapping[str, int]] | None = None,
    ) -> None:
        self._silences = silences
        self._hooks = dict(hooks)
        self._version = version
        self._kernel = kernel
        self._open = OpenStalls(min_idle_ms)
        self._ended: Counter[Ended] = Counter()
        self._durations: dict[Label, tuple[list[int], float]] = {}
        # By id: CLOCK_BOOTTIME until when it is held, how it is counted then, and its duration.
        self._held: OrderedDict[str | None, tuple[int, Ended, int | None]] = OrderedDict()
        self._lost = Counter(dict.fromkeys(hooks, 0))
        self._segments = Counter(dict.fromkeys(SEGMENT_KINDS, 0))
        self._keepalives = 0
        self._sees_resumes = sees_resumes
        self._unexported = unexported
        self._at_risk: dict[str, Label] = {}  # by socket
        self._recovered: set[Label] = set()  # services with a stall that recovered since the latest snapshot
        self._rules: dict[str, Callable[[Event], None]] = {
            Kind.STALL.value: self._stall,
            Kind.RETRANSMIT.value: self._retransmit,
            Kind.KEEPALIVE.value: self._keepalive,
            Kind.WINDOW_PROBE.value: self._open.progress,
            Kind.UNSENT.value: self._open.progress,
            Kind.FOUND.value: self._found,
            Kind.LOST.value: self._lose,
        }
        self._next_s = 0.0
        self.latest = self._snapshot()

    def opened(self, header: Header) -> None:
        """The run begins."""

    def write(self, events: Sequence[Event]) -> None:
        """Count events."""
        rules = self._rules
        for event in events:
            if self._at_risk and event.event in _ENDS_SILENCE:
                self._at_risk.pop(event.sock or "", None)
            rule = rules.get(event.event)
            if rule is not None:
                rule(event)

    def flush(self, until_ns: int) -> None:
        """Publish a snapshot if one is due. No later event is from before until_ns (CLOCK_BOOTTIME)."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        while self._held and next(iter(self._held.values()))[0] <= until_ns:
            self._release()
        self.latest = self._snapshot()
        self._next_s = now_s + max(PUBLISH_EVERY_S, (time.monotonic() - now_s) / MAX_SHARE)

    def close(self) -> None:
        """Publish the last snapshot. Nothing is attached any more."""
        while self._held:
            self._release()
        self._hooks = dict.fromkeys(self._hooks, False)
        self._at_risk.clear()
        self.latest = self._snapshot()

    def _stall(self, stall: Event) -> None:
        label = self._silences.place(service_of(stall))
        if stall.phase != "end":
            if stall.revoked:
                self._held.pop(stall.id, None)
            self._open.take(stall, label)
            return
        self._open.end(stall.sock)
        if (
            stall.outcome == Outcome.RECOVERED.value and label.service != OTHER
        ):  # of those, one says nothing of another
            self._recovered.add(label)
        ended = Ended(label, stall.verdict or OTHER, stall.outcome or OTHER)
        if stall.outcome not in WITHOUT_EVIDENCE:
            self._count(ended, stall.duration_ms)
            return
        self._held[stall.id] = stall.ktime_ns + HELD_NS, ended, stall.duration_ms
        if len(self._held) > MAX_HELD:
            self._release()

    def _release(self) -> None:
        """Count the oldest end without evidence."""
        _, (_, ended, duration_ms) = self._held.popitem(last=False)
        self._count(ended, duration_ms)

    def _count(self, ended: Ended, duration_ms: int | None) -> None:
        self._ended[ended] += 1
        counts, sum_s = self._durations.get(ended.label) or ([0] * (len(DURATIONS_S) + 1), 0.0)
        seconds = (duration_ms or 0) / 1000
        counts[bisect_left(DURATIONS_S, seconds)] += 1
        self._durations[ended.label] = counts, sum_s + seconds

    def _retransmit(self, event: Event) -> None:
        kind = event.kind or OTHER
        if kind not in self._segments and len(self._segments) >= MAX_KINDS:
            kind = OTHER
        self._segments[kind] += counts_of(event).segments
        self._open.progress(event)

    def _keepalive(self, event: Event) -> None:
        self._keepalives += counts_of(event).keepalives
        self._open.progress(event)

    def _found(self, event: Event) -> None:
        if event.kind != "idle":
            self._open.progress(event)
        elif event.sock is not None and len(self._at_risk) < MAX_AT_RISK:
            self._at_risk[event.sock] = self._silences.place(service_of(event))

    def _lose(self, event: Event) -> None:
        if event.count:
            hook = event.hook or OTHER
            self._lost[hook if hook in self._lost or len(self._lost) < MAX_HOOKS else OTHER] += event.count
            self._at_risk.clear()  # their ends may be among what was lost; the next search finds them again

    def _forget_withdrawn(self, fatal_ms: Mapping[Label, int]) -> None:
        """Leave out connections beside one that recovered after all, if no silence to their service was fatal."""
        withdrawn = self._recovered - fatal_ms.keys()
        self._recovered.clear()
        if withdrawn and self._at_risk:
            self._at_risk = {sock: label for sock, label in self._at_risk.items() if label not in withdrawn}

    def _snapshot(self) -> Snapshot:
        survived_ms, fatal_ms = self._silences.longest_survived_ms, dict(self._silences.shortest_fatal_ms)
        for label, idle_ms in self._open.fatal_ms().items():
            fatal_ms[label] = min(idle_ms, fatal_ms.get(label, idle_ms))
        open_stalls = self._open.by_verdict()
        self._forget_withdrawn(fatal_ms)
        at_risk = Counter({label: 0 for label, _ in open_stalls})
        at_risk.update(self._at_risk.values())
        return Snapshot(
            version=self._version,
            kernel=self._kernel,
            hooks=dict(self._hooks),
            lost=dict(self._lost),
            segments=dict(self._segments),
            keepalives=self._keepalives,
            ended=dict(self._ended),
            durations={label: Durations(tuple(counts), sum_s) for label, (counts, sum_s) in self._durations.items()},
            open_stalls=open_stalls,
            stuck_bytes=self._open.stuck_bytes(),
            gives_up_s=self._open.gives_up_s(),
            survived_s={label: ms / 1000 for label, ms in survived_ms.items()},
            fatal_s={label: ms / 1000 for label, ms in fatal_ms.items()},
            at_risk=at_risk if self._sees_resumes else None,
            unexported=self._unexported() if self._unexported is not None else None,
        )

"""What a report keeps of a recording, in bounded memory whatever the recording holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from tracer.analysis.comparison import Comparer, Comparison
from tracer.analysis.idle_timeouts import IdleTimeouts, Service, service_of
from tracer.analysis.outcomes import WITHOUT_EVIDENCE
from tracer.model.events import Event, size_of
from tracer.model.recent import Recent
from tracer.model.times import InvalidTime, parse_time
from tracer.model.window import EVERYTHING, Window
from tracer.output.crosscheck import what_was_missed
from tracer.output.format import local_time
from tracer.output.owners_advice import UNKNOWN_HOST, Line
from tracer.output.report_actions import ReportActions
from tracer.output.report_incidents import ReportIncidents
from tracer.output.report_repeats import Repeats
from tracer.output.report_rows import OTHER, Missing, StallEnd, count
from tracer.output.report_two_ends import TwoEnds
from tracer.output.stalled_services import StalledServices
from tracer.recordings.header import Header

MAX_ALL_WORDS = 64
"""Verdicts and outcomes of all services that are counted apart."""
MAX_SUSPECTS = 2048
MAX_SUSPECTS_BYTES = 4 << 20
MAX_REVOCABLE = 8192
MAX_REVOCABLE_BYTES = 6 << 20
"""Stalls that ended without evidence and may go on yet, and their memory."""
MAX_HOSTS = 4096
"""Hosts that are listed: a file may hold any number of recordings."""
MAX_HOOKS = 64
"""Hooks with a count of lost events of their own: more than there are."""
MAX_MISSING = 1000
MAX_ZONES = 16
"""Time zones of hosts. More than one are too many already: all times are in UTC then."""
HZ = 250
"""Jiffies per second of Debian and most others, for a header without hz."""


class _Connection(NamedTuple):
    service: Service
    host: str
    sock: str


class ReportData:
    """Takes events, and counts stalls by service.

    idle_timeouts: as the stall tracker fills them. here: this host's name; commands for another host name that host.
    program: how tcpwatch is called on this host. is_filtered: the filters of the command line leave out events that
    are in the kernel's counts. window: the part of the recordings that is reported.
    """

    def __init__(
        self,
        idle_timeouts: IdleTimeouts,
        *,
        here: str,
        is_filtered: bool,
        window: Window = EVERYTHING,
        program: str = "tcpwatch",
    ) -> None:
        self.idle_timeouts = idle_timeouts
        self.window = window
        self.has_compact = self.has_whole = False  # recordings of either form
        self.has_events = False
        self.missing: list[Missing] = []
        self.missing_count = 0
        self.services = StalledServices(idle_timeouts, here, program)
        self.incidents = ReportIncidents()
        self.actions = ReportActions()
        self.two_ends = TwoEnds()
        self.repeats = Repeats()
        self.verdicts: Counter[str] = Counter()
        self.outcomes: dict[str, Counter[str]] = {}  # by verdict
        self.stalls = 0
        self.events = 0
        self.suspects_left_out = 0
        self.lost: Counter[str] = Counter()
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.hosts: dict[str, None] = {}  # as a set that keeps its order
        self.utc_offsets_s: set[int] = set()
        self._words: dict[str, str] = {}  # verdicts and outcomes
        # Ends without evidence, by host and id.
        self._revocable: Recent[tuple[str, str], StallEnd] = Recent(MAX_REVOCABLE, MAX_REVOCABLE_BYTES, _size_of_end)
        # Connections that were silent for longer than was fatal for another one.
        self._suspects: Recent[_Connection, Event] = Recent(MAX_SUSPECTS, MAX_SUSPECTS_BYTES, size_of)
        self.is_filtered = is_filtered or bool(window)
        self._comparer = Comparer()
        self._elsewhere = Comparison()  # of merged reports
        self.host = UNKNOWN_HOST  # of the recording that is read
        self._hz = self._own_netns = 0

    @property
    def spans_days(self) -> bool:
        """Whether a time of day needs its date, in the time zone of the report."""
        instants = [each for each in (self.first_ns, self.last_ns) if each is not None]
        return len({local_time(max(0, each), self.utc_offset_s)[0] for each in instants}) > 1

    def opened(self, header: Header) -> None:
        """A recording begins. It may lack events that are in the kernel's counts."""
        self.has_compact |= header.compact
        self.has_whole |= not header.compact
        if header.compact:  # its first event comes when the first connection stalls
            self._begin_at(header.started)
        self.is_filtered |= not header.keeps_counts
        self.host = header.host or UNKNOWN_HOST
        self._comparer.begin(self.host, header.run)
        self.two_ends.opened(self.host, header)
        self._hz, self._own_netns = header.hz if header.hz > 0 else HZ, header.netns
        self.add_host(self.host)
        self.add_zone(header.utc_offset_s)

    def add_host(self, host: str) -> None:
        """List a host."""
        if len(self.hosts) < MAX_HOSTS:
            self.hosts.setdefault(host)

    def add_zone(self, utc_offset_s: int) -> None:
        """Note the time zone of a host."""
        if len(self.utc_offsets_s) < MAX_ZONES:
            self.utc_offsets_s.add(utc_offset_s)

    def add_missing(self, missing: Missing) -> None:
        """Note a file that is not in the report, or only in part."""
        self.missing_count += 1
        if len(self.missing) < MAX_MISSING:
            self.missing.append(missing)
        if missing.is_failure:
            # The kernel counted events that are in what is missing.
            self.is_filtered = True
            self.two_ends.coverages.missed()

    def take(self, event: Event) -> Sequence[StallEnd]:
        """Take an event. Returns the ends of stalls that count from now on."""
        self.has_events = True
        self.add_time(event.time_ns)
        self.two_ends.take(self.host, event)
        kind = event.event
        if kind == "state":
            self.events += 1
        elif kind == "stall":
            return self._take_stall(event)
        elif kind == "lost":
            if event.count:
                self.add_lost(event.hook or "an unknown hook", event.count)
        elif kind == "action":
            self.actions.take(event, self.host)
        elif kind == "counters":
            self._comparer.add_counters(event)
        else:
            self.events += 1
            if kind == "found" and event.kind == "idle":
                self._suspect(event)
            self._comparer.add(event)
        return ()

    def _begin_at(self, started: str) -> None:
        try:
            started_ns = parse_time(started)
        except InvalidTime:
            return
        if self.window.since_ns is None or started_ns >= self.window.since_ns:
            self.add_time(started_ns)

    def add_time(self, time_ns: int) -> None:
        """The report covers this time (wall clock), too."""
        if self.first_ns is None or time_ns < self.first_ns:
            self.first_ns = time_ns
        if self.last_ns is None or time_ns > self.last_ns:
            self.last_ns = time_ns

    def add_comparison(self, sums: Comparison) -> None:
        """Include the kernel's counts of another report."""
        self._elsewhere = self._elsewhere.plus(sums)

    def add_lost(self, hook: str, number: int) -> None:
        """Count events that were lost while recording."""
        count(self.lost, hook, number, MAX_HOOKS, "other hooks")

    def take_rest(self) -> Sequence[StallEnd]:
        """Nothing comes any more: the ends without evidence that nothing has revoked count, too."""
        ends = [end for _, end in self._revocable.take_all()]
        for end in ends:
            self.add_end(end)
        return ends

    def merge(self, other: ReportData) -> None:
        """Include another report, to which nothing is added any more. What both limit, this one limits again.

        Associative as long as nothing exceeds a limit, and an empty one changes nothing. Order matters where the
        first or the newest of something is kept: the other report comes later.
        """
        self.idle_timeouts.merge(other.idle_timeouts)
        self.missing += other.missing[: MAX_MISSING - len(self.missing)]
        self.missing_count += other.missing_count
        self.services.merge(other.services)
        self.incidents.merge(other.incidents)
        self.actions.merge(other.actions)
        self.two_ends.merge(other.two_ends)
        self.repeats.merge(other.repeats)
        for verdict, number in other.verdicts.items():
            self.verdicts[self._word(verdict)] += number
        for verdict, outcomes in other.outcomes.items():
            mine = self.outcomes.setdefault(self._word(verdict), Counter())
            for outcome, number in outcomes.items():
                mine[self._word(outcome)] += number
        self.stalls += other.stalls
        self.events += other.events
        for hook, number in other.lost.items():
            self.add_lost(hook, number)
        for time_ns in (other.first_ns, other.last_ns):
            if time_ns is not None:
                self.add_time(time_ns)
        for host in other.hosts:
            self.add_host(host)
        for utc_offset_s in sorted(other.utc_offsets_s):
            self.add_zone(utc_offset_s)
        self.suspects_left_out += other.suspects_left_out
        for connection, event in other._suspects.items():
            self._put_suspect(connection, event)
        self._elsewhere = self._elsewhere.plus(other.comparison)
        self.is_filtered |= other.is_filtered
        self.has_compact |= other.has_compact
        self.has_whole |= other.has_whole
        self.has_events |= other.has_events

    def _take_stall(self, stall: Event) -> Sequence[StallEnd]:
        """An end counts at once; one without evidence counts when no later event can revoke it."""
        key = (self.host, stall.id or "")
        if stall.revoked:
            self._revocable.pop(key)
        if stall.phase != "end":
            return ()
        ends = [StallEnd(self.host, stall.whole(), self._hz, self._own_netns)]
        if stall.outcome in WITHOUT_EVIDENCE:
            ends = [oldest for _, oldest in self._revocable.put(key, ends[0])]
        for end in ends:
            self.add_end(end)
        return ends

    def _suspect(self, event: Event) -> None:
        self.add_suspect(self.host, event)

    def add_suspect(self, host: str, event: Event) -> None:
        """Note a connection that is probably dead."""
        service = service_of(event)
        if service is not None and event.sock is not None:
            self._put_suspect(_Connection(service, host, event.sock), event.whole())

    def _put_suspect(self, connection: _Connection, event: Event) -> None:
        self.suspects_left_out += len(self._suspects.put(connection, event))

    def add_end(self, end: StallEnd) -> None:
        """Count the end of a stall that nothing revokes any more."""
        host, stall = end.host, end.stall
        self.stalls += 1
        verdict, outcome = self.verdict_of(stall), self._word(stall.outcome or "?")
        self.verdicts[verdict] += 1
        self.outcomes.setdefault(verdict, Counter())[outcome] += 1
        self.incidents.add(stall, host, verdict)
        self.two_ends.add(host, stall)
        self.repeats.add(host, stall)
        service = service_of(stall)
        if service is not None:
            self.services.add(end, service, verdict, outcome)

    def verdict_of(self, stall: Event) -> str:
        """The verdict of a stall; OTHER for one that is not counted apart."""
        return self._word(stall.verdict or "?")

    def _word(self, word: str) -> str:
        """The verdict or outcome, kept in memory once; OTHER where there are more than are known."""
        if word not in self._words and len(self._words) >= MAX_ALL_WORDS:
            return OTHER
        return self._words.setdefault(word, word)

    def advice_of(self, service: Service, verdict: str | None = None) -> list[Line]:
        """What to do about the stalls of a service; verdict: only about those with that one."""
        return self.services.advice_of(service, verdict, has_hosts=len(self.hosts) > 1)

    @property
    def utc_offset_s(self) -> int:
        """The time zone of the report, seconds east of UTC: that of the hosts, UTC where they are in several."""
        return next(iter(self.utc_offsets_s)) if len(self.utc_offsets_s) == 1 else 0

    @cached_property
    def suspects(self) -> dict[Service, list[tuple[str, Event]]]:
        """Connections that are probably dead with their hosts, by service, once nothing comes any more."""
        by_service: dict[Service, list[tuple[str, Event]]] = {}
        for (service, host, _), event in self._suspects.items():
            by_service.setdefault(service, []).append((host, event))
        return by_service

    @property
    def comparison(self) -> Comparison:
        """The kernel's counts beside those of the events."""
        return self._elsewhere.plus(self._comparer.sums())

    @property
    def is_counted(self) -> bool:
        """Whether the kernel's counts can be compared with the events."""
        return self.comparison.has_counts and not self.is_filtered

    @property
    def has_hosts_left_out(self) -> bool:
        """Whether there were more hosts than are listed or counted."""
        return self.services.has_hosts_left_out or len(self.hosts) >= MAX_HOSTS

    def missed(self) -> str:
        """A sentence where the kernel retransmitted more than the events show; empty where it did not."""
        sums = self.comparison
        sentence = what_was_missed(sums.sure_seen, sums.sure_counted)
        return f"{sentence}." if sentence else ""


def _size_of_end(end: StallEnd) -> int:
    return size_of(end.stall)

"""What a report keeps of a recording, in bounded memory whatever the recording holds."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import NamedTuple

from tracer.analysis.advice.commands import on_host
from tracer.analysis.advice.derived import advice_for
from tracer.analysis.advice.steps import Step
from tracer.analysis.comparison import Comparer, Comparison
from tracer.analysis.idle_timeouts import IdleTimeouts, Service, service_of
from tracer.analysis.outcomes import WITHOUT_EVIDENCE, Outcome
from tracer.model.events import Event, size_of
from tracer.model.recent import Recent
from tracer.model.times import InvalidTime, parse_time
from tracer.model.window import EVERYTHING, Window
from tracer.output.crosscheck import what_was_missed
from tracer.output.format import local_time
from tracer.output.owners_advice import UNKNOWN_HOST, Line, OwnersAdvice
from tracer.output.report_actions import ReportActions
from tracer.output.report_incidents import ReportIncidents
from tracer.output.report_repeats import Repeats
from tracer.output.report_rows import OTHER, Missing, ServiceStalls, StallEnd, count, host_key
from tracer.output.report_two_ends import TwoEnds
from tracer.recordings.header import Header

MAX_SERVICES = 8192
"""Services with a row of their own. Of more, those with the shortest stalls are counted together."""
MAX_OWNERS = 4096
"""Owners, of all services, with advice: those that stalled last."""
MAX_ALL_WORDS = 64
"""Verdicts and outcomes of all services that are counted apart."""
MAX_HOSTS_OF_SERVICES = 65536
"""Hosts of all services together. Further ones are not counted as a service's."""
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
    is_filtered: the filters of the command line leave out events that are in the kernel's counts. window: the part of
    the recordings that is reported.
    """

    def __init__(
        self, idle_timeouts: IdleTimeouts, *, here: str, is_filtered: bool, window: Window = EVERYTHING
    ) -> None:
        self.idle_timeouts = idle_timeouts
        self.window = window
        self.has_compact = self.has_whole = False  # recordings of either form
        self.has_events = False
        self.here = here
        self.missing: list[Missing] = []
        self.missing_count = 0
        self.services: dict[Service, ServiceStalls] = {}
        self.others = ServiceStalls()  # of the services without a row of their own
        self.incidents = ReportIncidents()
        self.actions = ReportActions()
        self.two_ends = TwoEnds()
        self.repeats = Repeats()
        self.verdicts: Counter[str] = Counter()
        self.outcomes: dict[str, Counter[str]] = {}  # by verdict
        self.stalls = 0
        self.events = 0
        self.without_advice = 0  # pairs of service and verdict
        self.suspects_left_out = 0
        self.lost: Counter[str] = Counter()
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.hosts: dict[str, None] = {}  # as a set that keeps its order
        self.utc_offsets_s: set[int] = set()
        self._hosts_of_services = 0
        self._advice: OrderedDict[tuple[Service, str], OwnersAdvice] = OrderedDict()  # by service and verdict
        self._owners = 0
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
        self._merge_services(other)
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
        self.without_advice += other.without_advice
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

    def _merge_services(self, other: ReportData) -> None:
        self.others.take(other.others)
        for service, stalls in other.services.items():
            mine = self.services.setdefault(service, ServiceStalls())
            mine.take(stalls)
            self._add_hosts(mine, stalls.hosts)
        for key, owners in other._advice.items():
            self._keep_advice(key, partial(_merge_owners, later=owners))
        while len(self.services) > MAX_SERVICES:
            self._fold_services()

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
        if service is None:
            return
        stalls = self.services.setdefault(service, ServiceStalls())
        stalls.add(verdict, outcome, stall.duration_ms)
        self._add_hosts(stalls, (host_key(host),))
        if stall.outcome != Outcome.RECOVERED:
            self._keep_advice((service, verdict), lambda owners: owners.add(end))
        if len(self.services) > MAX_SERVICES:
            self._fold_services()

    def _add_hosts(self, stalls: ServiceStalls, hosts: Iterable[int]) -> None:
        for host in hosts:
            if self._hosts_of_services < MAX_HOSTS_OF_SERVICES or not stalls.hosts:
                self._hosts_of_services += host not in stalls.hosts
                stalls.hosts.add(host)

    def verdict_of(self, stall: Event) -> str:
        """The verdict of a stall; OTHER for one that is not counted apart."""
        return self._word(stall.verdict or "?")

    def _word(self, word: str) -> str:
        """The verdict or outcome, kept in memory once; OTHER where there are more than are known."""
        if word not in self._words and len(self._words) >= MAX_ALL_WORDS:
            return OTHER
        return self._words.setdefault(word, word)

    def _keep_advice(self, key: tuple[Service, str], change: Callable[[OwnersAdvice], None]) -> None:
        """Change what is kept for the advice about a service and verdict, which is the newest then."""
        owners = self._advice.setdefault(key, OwnersAdvice())
        self._advice.move_to_end(key)
        self._owners -= len(owners)
        change(owners)
        self._owners += len(owners)
        while self._owners > MAX_OWNERS:
            self._owners -= len(self._advice.popitem(last=False)[1])
            self.without_advice += 1

    def _advice_for(self, end: StallEnd) -> list[str]:
        """The advice for a stall, by all that is known about its service, with its host unless that is this one."""
        known = self.idle_timeouts.range_of(service_of(end.stall))
        lines = advice_for(end.stall, hz=end.hz, own_netns=end.own_netns, idle_timeout=known)
        if end.stall.outcome != Outcome.ONGOING:  # a stall that has ended needs no release
            lines = [line for line in lines if Step.of(line) is not Step.RELEASE]
        return lines if end.host in (self.here, UNKNOWN_HOST) else [on_host(line, end.host) for line in lines]

    def _fold_services(self) -> None:
        """Count the half with the shortest stalls together."""
        for service, stalls in self.by_weight()[MAX_SERVICES // 2 :]:
            self.others.take(stalls)
            self._hosts_of_services -= len(stalls.hosts)
            del self.services[service]

    def by_weight(self) -> list[tuple[Service, ServiceStalls]]:
        """Services, that with the longest stall first."""
        return sorted(self.services.items(), key=lambda item: (-item[1].longest_ms, item[0]))

    def advice_of(self, service: Service, verdict: str | None = None) -> list[Line]:
        """Each line once, those for the most frequent verdict first; verdict: only the lines for that one."""
        verdicts = self.services[service].verdicts if service in self.services else Counter[str]()
        wanted = [each for each, _ in verdicts.most_common() if verdict in (None, each)]
        owners = (self._advice[service, each] for each in wanted if (service, each) in self._advice)
        has_hosts = len(self.hosts) > 1
        return list(
            dict.fromkeys(line for each in owners for line in each.lines(self._advice_for, has_hosts=has_hosts))
        )

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
        return self._hosts_of_services >= MAX_HOSTS_OF_SERVICES or len(self.hosts) >= MAX_HOSTS

    def missed(self) -> str:
        """A sentence where the kernel retransmitted more than the events show; empty where it did not."""
        sums = self.comparison
        sentence = what_was_missed(sums.sure_seen, sums.sure_counted)
        return f"{sentence}." if sentence else ""


def _merge_owners(owners: OwnersAdvice, later: OwnersAdvice) -> None:
    owners.merge(later)


def _size_of_end(end: StallEnd) -> int:
    return size_of(end.stall)

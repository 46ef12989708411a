"""What a report keeps of a recording, in bounded memory whatever the recording holds."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from functools import cached_property

from tracer.analysis.advice.commands import on_host
from tracer.analysis.advice.steps import Step
from tracer.analysis.idle_timeouts import IdleTimeouts, Service, service_of
from tracer.analysis.outcomes import WITHOUT_EVIDENCE, Outcome
from tracer.model.counts import Tally, counts_of, counts_of_kernel, counts_seen
from tracer.model.events import Event, size_of
from tracer.model.recent import Recent
from tracer.model.times import InvalidTime, parse_time
from tracer.model.window import EVERYTHING, Window
from tracer.output.crosscheck import what_was_missed
from tracer.output.owners_advice import UNKNOWN_HOST, Line, OwnersAdvice
from tracer.output.report_actions import ReportActions
from tracer.output.report_incidents import ReportIncidents
from tracer.output.report_rows import OTHER, Missing, ServiceStalls, count
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
MAX_NAMESPACES = 4096
MAX_MISSING = 1000
MAX_ZONES = 16
"""Time zones of hosts. More than one are too many already: all times are in UTC then."""


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
        self.verdicts: Counter[str] = Counter()
        self.outcomes: dict[str, Counter[str]] = {}  # by verdict
        self.stalls = 0
        self.events = 0
        self.without_advice = 0  # pairs of service and verdict
        self.suspects_left_out = 0
        self.lost: Counter[str] = Counter()
        self.seen, self.counted = Tally(), Tally()
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.hosts: dict[str, None] = {}  # as a set that keeps its order
        self.utc_offsets_s: set[int] = set()
        self._hosts_of_services = 0
        self._advice: OrderedDict[tuple[Service, str], OwnersAdvice] = OrderedDict()  # by service and verdict
        self._owners = 0
        self._words: dict[str, str] = {}  # verdicts and outcomes
        # Ends without evidence, by host and id.
        self._revocable: Recent[tuple[str, str], Event] = Recent(MAX_REVOCABLE, MAX_REVOCABLE_BYTES, size_of)
        # Connections that were silent for longer than was fatal for another one, by service and socket.
        self._suspects: Recent[tuple[Service, str], Event] = Recent(MAX_SUSPECTS, MAX_SUSPECTS_BYTES, size_of)
        self._run = ""
        self._filtered = is_filtered or bool(window)
        self._late: set[int | None] = set()  # namespaces with counts that may be of the time before
        self._uncompared = Tally()  # seen since the kernel's counts were last recorded
        self.host = UNKNOWN_HOST  # of the recording that is read

    def opened(self, header: Header) -> None:
        """A recording begins. It may lack events that are in the kernel's counts."""
        self.has_compact |= header.compact
        self.has_whole |= not header.compact
        if header.compact:  # its first event comes when the first connection stalls
            self._begin_at(header.started)
        self._filtered |= not header.keeps_counts
        if header.run != self._run:
            self._uncompared.clear()
        self._run = header.run
        self.host = header.host or UNKNOWN_HOST
        if len(self.hosts) < MAX_HOSTS:
            self.hosts.setdefault(self.host)
        if len(self.utc_offsets_s) < MAX_ZONES:
            self.utc_offsets_s.add(header.utc_offset_s)

    def add_missing(self, missing: Missing, *, is_failure: bool) -> None:
        """Note a file that is not in the report, or only in part. is_failure: it should be."""
        self.missing_count += 1
        if len(self.missing) < MAX_MISSING:
            self.missing.append(missing)
        if is_failure:
            # The kernel counted events that are in what is missing.
            self._filtered = True

    def take(self, event: Event) -> Sequence[tuple[str, Event]]:
        """Take an event. Returns the ends of stalls that count from now on, with their hosts."""
        self.has_events = True
        self._extend_to(event.time_ns)
        kind = event.event
        if kind == "state":
            self.events += 1
        elif kind == "stall":
            return self._take_stall(event)
        elif kind == "lost":
            if event.count:
                count(self.lost, event.hook or "an unknown hook", event.count, MAX_HOOKS, "other hooks")
        elif kind == "action":
            self.actions.take(event, self.host)
        elif kind == "counters":
            self.counted.add(event.netns, counts_of_kernel(event))
            if event.late and len(self._late) < MAX_NAMESPACES:
                self._late.add(event.netns)
            seen = counts_seen(event)
            if seen is None:
                self.seen.take(self._uncompared)
            else:
                self.seen.add(event.netns, seen)
        else:
            self.events += 1
            if kind == "found" and event.kind == "idle":
                self._suspect(event)
            self._uncompared.add(event.netns, counts_of(event))
        return ()

    def _begin_at(self, started: str) -> None:
        try:
            started_ns = parse_time(started)
        except InvalidTime:
            return
        if self.window.since_ns is None or started_ns >= self.window.since_ns:
            self._extend_to(started_ns)

    def _extend_to(self, time_ns: int) -> None:
        """The report covers this time (wall clock), too."""
        if self.first_ns is None or time_ns < self.first_ns:
            self.first_ns = time_ns
        if self.last_ns is None or time_ns > self.last_ns:
            self.last_ns = time_ns

    def take_rest(self) -> Sequence[tuple[str, Event]]:
        """Nothing comes any more: the ends without evidence that nothing has revoked count, too."""
        ends = [(host, stall) for (host, _), stall in self._revocable.take_all()]
        for host, stall in ends:
            self._add(host, stall)
        return ends

    def _take_stall(self, stall: Event) -> Sequence[tuple[str, Event]]:
        """An end counts at once; one without evidence counts when no later event can revoke it."""
        key = (self.host, stall.id or "")
        if stall.revoked:
            self._revocable.pop(key)
        if stall.phase != "end":
            return ()
        ends = [(self.host, stall)]
        if stall.outcome in WITHOUT_EVIDENCE:
            ends = [(host, oldest) for (host, _), oldest in self._revocable.put(key, stall)]
        for host, end in ends:
            self._add(host, end)
        return ends

    def _suspect(self, event: Event) -> None:
        service = service_of(event)
        if service is not None and event.sock is not None:
            self.suspects_left_out += len(self._suspects.put((service, event.sock), event))

    def _add(self, host: str, stall: Event) -> None:
        self.stalls += 1
        verdict, outcome = self.verdict_of(stall), self._word(stall.outcome or "?")
        self.verdicts[verdict] += 1
        self.outcomes.setdefault(verdict, Counter())[outcome] += 1
        self.incidents.add(stall, host, verdict)
        service = service_of(stall)
        if service is None:
            return
        stalls = self.services.setdefault(service, ServiceStalls())
        stalls.add(verdict, outcome, stall.duration_ms)
        if self._hosts_of_services < MAX_HOSTS_OF_SERVICES or not stalls.hosts:
            self._hosts_of_services -= len(stalls.hosts)
            stalls.hosts.add(hash(host))
            self._hosts_of_services += len(stalls.hosts)
        if stall.outcome != Outcome.RECOVERED:
            self._advise(service, verdict, host, stall)
        if len(self.services) > MAX_SERVICES:
            self._fold_services()

    def verdict_of(self, stall: Event) -> str:
        """The verdict of a stall; OTHER for one that is not counted apart."""
        return self._word(stall.verdict or "?")

    def _word(self, word: str) -> str:
        """The verdict or outcome, kept in memory once; OTHER where there are more than are known."""
        if word not in self._words and len(self._words) >= MAX_ALL_WORDS:
            return OTHER
        return self._words.setdefault(word, word)

    def _advise(self, service: Service, verdict: str, host: str, stall: Event) -> None:
        key = (service, verdict)
        owners = self._advice.setdefault(key, OwnersAdvice())
        self._advice.move_to_end(key)
        self._owners -= len(owners)
        owners.add(host, stall, [self._for_host(line, host) for line in _useful(stall)])
        self._owners += len(owners)
        while self._owners > MAX_OWNERS:
            self._owners -= len(self._advice.popitem(last=False)[1])
            self.without_advice += 1

    def _for_host(self, line: str, host: str) -> str:
        """The line of advice, with the host where its command has to run unless that is this one."""
        return line if host in (self.here, UNKNOWN_HOST) else on_host(line, host)

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
        return list(dict.fromkeys(line for each in owners for line in each.lines()))

    @property
    def utc_offset_s(self) -> int:
        """The time zone of the report, seconds east of UTC: that of the hosts, UTC where they are in several."""
        return next(iter(self.utc_offsets_s)) if len(self.utc_offsets_s) == 1 else 0

    @cached_property
    def suspects(self) -> dict[Service, list[Event]]:
        """Connections that are probably dead, by service, once nothing comes any more."""
        by_service: dict[Service, list[Event]] = {}
        for (service, _), event in self._suspects.items():
            by_service.setdefault(service, []).append(event)
        return by_service

    @property
    def is_counted(self) -> bool:
        """Whether the kernel's counts can be compared with the events."""
        return bool(self.counted.namespaces()) and not self._filtered

    @property
    def has_hosts_left_out(self) -> bool:
        """Whether there were more hosts than are listed or counted."""
        return self._hosts_of_services >= MAX_HOSTS_OF_SERVICES or len(self.hosts) >= MAX_HOSTS

    def missed(self) -> str:
        """A sentence where the kernel retransmitted more than the events show; empty where it did not."""
        seen, counted = Tally(), Tally()
        for netns in self.counted.namespaces():
            if netns not in self._late:
                seen.add(netns, self.seen.of(netns))
                counted.add(netns, self.counted.of(netns))
        sentence = what_was_missed(seen.total(), counted.total())
        return f"{sentence}." if sentence else ""


def _useful(stall: Event) -> list[str]:
    """The advice for a stall. A stall that has ended needs no release."""
    lines = stall.advice or []
    return (
        lines if stall.outcome == Outcome.ONGOING else [line for line in lines if Step.of(line) is not Step.RELEASE]
    )

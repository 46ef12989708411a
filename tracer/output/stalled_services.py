"""The stalls of each service in a report: how many, on which hosts, and what to do about them. In bounded memory."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from tracer.analysis.advice.commands import on_host
from tracer.analysis.advice.derived import advice_for
from tracer.analysis.advice.steps import Step
from tracer.analysis.idle_timeouts import IdleTimeouts, Service, service_of
from tracer.analysis.outcomes import Outcome
from tracer.output.owners_advice import UNKNOWN_HOST, Line, OwnersAdvice
from tracer.output.report_rows import ServiceStalls, StallEnd, host_key

MAX_SERVICES = 8192
"""Services with a row of their own. Of more, those with the shortest stalls are counted together."""
MAX_OWNERS = 4096
"""Owners, of all services, with advice: those that stalled last."""
MAX_HOSTS = 65536
"""Hosts of all services together. Further ones are not counted as a service's."""


class StalledServices:
    """Counts the ends of stalls by service.

    idle_timeouts: what is known about each service. here: this host's name; commands for another host name that host.
    program: how tcpwatch is called on this host.
    """

    def __init__(self, idle_timeouts: IdleTimeouts, here: str, program: str) -> None:
        self.others = ServiceStalls()  # of the services without a row of their own
        self.without_advice = 0  # pairs of service and verdict
        self._idle_timeouts = idle_timeouts
        self._here = here
        self._program = program
        self._stalls: dict[Service, ServiceStalls] = {}
        self._hosts = 0
        self._advice: OrderedDict[tuple[Service, str], OwnersAdvice] = OrderedDict()  # by service and verdict
        self._owners = 0

    def __len__(self) -> int:
        return len(self._stalls)

    def __iter__(self) -> Iterator[Service]:
        return iter(self._stalls)

    @property
    def has_hosts_left_out(self) -> bool:
        """Whether there were more hosts than are counted."""
        return self._hosts >= MAX_HOSTS

    def add(self, end: StallEnd, service: Service, verdict: str, outcome: str) -> None:
        """Count the end of a stall."""
        stalls = self._stalls.setdefault(service, ServiceStalls())
        stalls.add(verdict, outcome, end.stall.duration_ms)
        self._add_hosts(stalls, (host_key(end.host),))
        if end.stall.outcome != Outcome.RECOVERED:
            self._keep_advice((service, verdict), lambda owners: owners.add(end))
        if len(self._stalls) > MAX_SERVICES:
            self._fold()

    def merge(self, other: StalledServices) -> None:
        """Include those of another report, which comes later."""
        self.without_advice += other.without_advice
        self.others.take(other.others)
        for service, stalls in other._stalls.items():
            mine = self._stalls.setdefault(service, ServiceStalls())
            mine.take(stalls)
            self._add_hosts(mine, stalls.hosts)
        for key, owners in other._advice.items():
            self._keep_advice(key, partial(_merge_owners, later=owners))
        while len(self._stalls) > MAX_SERVICES:
            self._fold()

    def by_weight(self) -> list[tuple[Service, ServiceStalls]]:
        """Services, that with the longest stall first."""
        return sorted(self._stalls.items(), key=lambda item: (-item[1].longest_ms, item[0]))

    def advice_of(self, service: Service, verdict: str | None, *, has_hosts: bool) -> list[Line]:
        """Each line once, those for the most frequent verdict first.

        verdict: only the lines for that one. has_hosts: whether the report has several hosts.
        """
        verdicts = self._stalls[service].verdicts if service in self._stalls else Counter[str]()
        wanted = [each for each, _ in verdicts.most_common() if verdict in (None, each)]
        owners = (self._advice[service, each] for each in wanted if (service, each) in self._advice)
        return list(
            dict.fromkeys(line for each in owners for line in each.lines(self._advice_for, has_hosts=has_hosts))
        )

    def _add_hosts(self, stalls: ServiceStalls, hosts: Iterable[int]) -> None:
        for host in hosts:
            if self._hosts < MAX_HOSTS or not stalls.hosts:
                self._hosts += host not in stalls.hosts
                stalls.hosts.add(host)

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
        known = self._idle_timeouts.range_of(service_of(end.stall))
        lines = advice_for(end.stall, hz=end.hz, own_netns=end.own_netns, idle_timeout=known)
        if end.stall.outcome != Outcome.ONGOING:  # a stall that has ended needs no release
            lines = [line for line in lines if Step.of(line) is not Step.RELEASE]
        if end.host not in (self._here, UNKNOWN_HOST):
            return [on_host(line, end.host) for line in lines]
        return [line.replace("sudo tcpwatch ", f"sudo {self._program} ") for line in lines]

    def _fold(self) -> None:
        """Count the half with the shortest stalls together."""
        for service, stalls in self.by_weight()[MAX_SERVICES // 2 :]:
            self.others.take(stalls)
            self._hosts -= len(stalls.hosts)
            del self._stalls[service]


def _merge_owners(owners: OwnersAdvice, later: OwnersAdvice) -> None:
    owners.merge(later)

"""`tcpwatch report`: the stalls of a recording, each service's idle bracket, and what to change."""

from __future__ import annotations

import heapq
import json
import textwrap
from collections import Counter, OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TextIO

from tracer.analysis.idle import Service, Silences, service_of
from tracer.analysis.middleboxes import matching
from tracer.analysis.verdicts import WITHOUT_EVIDENCE
from tracer.counts import Tally, counts_of, counts_of_kernel
from tracer.events import Event, InvalidEvent, format_time, parse_time, to_json
from tracer.output.advice import OwnersAdvice
from tracer.output.brackets import bracket_in_words
from tracer.output.table import table
from tracer.output.telling import COMMANDS, wrapped
from tracer.output.truth import beside_the_kernel, what_was_missed
from tracer.output.words import duration, endpoint, local_time, plural, process, safe

LONGEST_STALLS = 50
"""Stalls in the text report: the longest. The JSON has all."""
MOST_SERVICES = 4096
"""Services that are told apart; those heard of longest ago are left out, and counted."""
SHOWN_SERVICES = 20
MOST_SUSPECTS = 1024
SHOWN_SUSPECTS = 8
MOST_REVOCABLE = 65536
"""Stalls that ended without evidence and may go on yet."""
UNKNOWN_HOST = "an unknown host"
MOST_HOSTS = 4096
"""Hosts that are told apart: a file may have any number of recordings."""
SHOWN_HOSTS = 8


@dataclass(slots=True)
class _Service:
    """What happened to the connections of one service."""

    verdicts: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    longest_ms: int = 0
    hosts: set[str] = field(default_factory=set)
    advice: dict[str, OwnersAdvice] = field(default_factory=dict)  # by verdict

    @property
    def all_advice(self) -> list[str]:
        """Each sentence once, those for the most frequent verdict first."""
        verdicts = (verdict for verdict, _ in self.verdicts.most_common())
        return list(
            dict.fromkeys(line for each in verdicts if each in self.advice for line in self.advice[each].lines())
        )


class Report:
    """A sink that keeps what a report needs, of whatever size the recordings are.

    silences is the one that the stall tracker fills. as_json: stalls are written as they come, one object a line, and
    `close` adds an object for each service and a summary. here: this host's name; commands for another one say so.
    """

    def __init__(self, stream: TextIO, silences: Silences, *, as_json: bool, width: int, here: str = "") -> None:
        self._stream = stream
        self._silences = silences
        self._as_json = as_json
        self._width = width
        self._here = here
        self._services: OrderedDict[Service, _Service] = OrderedDict()
        self._forgotten = 0
        self._stalls: list[tuple[int, int, str, Event]] = []  # with its host
        self._revocable: OrderedDict[tuple[str, str], Event] = OrderedDict()  # ends without evidence, by host and id
        # Connections that were found silent for longer than was fatal, by service and socket.
        self._suspects: OrderedDict[Service, OrderedDict[str, Event]] = OrderedDict()
        self._count = 0
        self._events = 0
        self._lost: Counter[str] = Counter()
        self._run = ""
        self._filtered = False
        self._late: set[int | None] = set()  # namespaces whose counts may be of the time before
        self._seen, self._counted = Tally(), Tally()
        self._uncompared = Tally()  # seen since the kernel's counts were last recorded
        self._first_ns: int | None = None
        self._last_ns = 0
        self._hosts: dict[str, None] = {}  # as a set that keeps its order
        self._host = UNKNOWN_HOST  # of the recording that is read
        self._utc_offset_s = 0

    def opened(self, host: str, utc_offset_s: int, run: str, *, filtered: bool = False) -> None:
        """A recording of that host and that run of tcpwatch begins; local time is so many seconds east of UTC.

        filtered: not everything that the kernel counted with it is shown.
        """
        self._filtered = self._filtered or filtered
        if run != self._run:
            self._uncompared.clear()
        self._run = run
        self._host = host or UNKNOWN_HOST
        if len(self._hosts) < MOST_HOSTS:
            self._hosts.setdefault(self._host)
        self._utc_offset_s = utc_offset_s

    def write(self, *events: Event) -> None:
        """Take some events."""
        for event in events:
            self._take(event)

    def _take(self, event: Event) -> None:
        time_ns = event.time_ns
        if self._first_ns is None or time_ns < self._first_ns:
            self._first_ns = time_ns
        if time_ns > self._last_ns:
            self._last_ns = time_ns
        kind = event.event
        if kind == "state":
            self._events += 1
        elif kind == "stall":
            self._take_stall(event)
        elif kind == "lost":
            if event.count:
                self._lost[event.hook or "an unknown hook"] += event.count
        elif kind == "counters":
            self._counted.add(event.netns, counts_of_kernel(event))
            if event.late and len(self._late) < MOST_SERVICES:
                self._late.add(event.netns)
            self._seen.take(self._uncompared)
        else:
            self._events += 1
            if kind == "found" and event.kind == "idle":
                self._suspect(event)
            self._uncompared.add(event.netns, counts_of(event))

    def _take_stall(self, stall: Event) -> None:
        """An end counts at once; one without evidence when it is clear that no later sign takes it back."""
        key = (self._host, stall.id or "")
        if stall.revoked:
            self._revocable.pop(key, None)
        if stall.phase != "end":
            return
        if stall.outcome not in WITHOUT_EVIDENCE:
            self._add(self._host, stall)
            return
        self._revocable[key] = stall
        if len(self._revocable) > MOST_REVOCABLE:
            self._add_oldest_revocable()

    def _add_oldest_revocable(self) -> None:
        (host, _), stall = self._revocable.popitem(last=False)
        self._add(host, stall)

    def _suspect(self, event: Event) -> None:
        name = service_of(event)
        if name is None or event.sock is None:
            return
        suspects = self._suspects.setdefault(name, OrderedDict())
        suspects[event.sock] = event
        if len(suspects) > MOST_SUSPECTS:
            suspects.popitem(last=False)
        if len(self._suspects) > MOST_SERVICES:
            self._suspects.popitem(last=False)

    def flush(self, until_ns: int) -> None:
        """Show what was written."""
        self._stream.flush()

    def _add(self, host: str, stall: Event) -> None:
        self._count += 1
        if self._as_json:
            self._line({**to_json(stall), "host": host})
        else:
            heapq.heappush(self._stalls, (stall.duration_ms or 0, self._count, host, stall))
            if len(self._stalls) > LONGEST_STALLS:
                heapq.heappop(self._stalls)
        name = service_of(stall)
        if name is None:
            return
        service = self._services.setdefault(name, _Service())
        self._services.move_to_end(name)
        if len(self._services) > MOST_SERVICES:
            self._services.popitem(last=False)
            self._forgotten += 1
        service.verdicts[stall.verdict or "?"] += 1
        service.outcomes[stall.outcome or "?"] += 1
        service.longest_ms = max(service.longest_ms, stall.duration_ms or 0)
        service.hosts.add(host)
        if stall.outcome != "recovered":
            lines = [self._for_host(line, host) for line in stall.advice or ()]
            service.advice.setdefault(stall.verdict or "?", OwnersAdvice()).add(host, stall, lines)

    def _for_host(self, line: str, host: str) -> str:
        """The line of advice, with the host that its command is for, where that is not this one.

        `ss -t…`, and what follows `There`, is for the peer.
        """
        text, colon, command = line.rpartition(": ")
        if host in (self._here, UNKNOWN_HOST) or not (colon and command.startswith(COMMANDS)):
            return line
        if command.startswith("ss -t") or text.endswith("There"):
            return line
        return f"{text}, on {host}: {command}"

    def close(self) -> None:
        """Nothing comes any more: the report, unless there was nothing to read."""
        if not self._hosts:
            return
        while self._revocable:
            self._add_oldest_revocable()
        if self._as_json:
            for name, service in self._by_weight():
                self._line(self._service_as_json(name, service))
            self._line(self._summary_as_json())
        else:
            self._stream.write(self._text())
        self._stream.flush()

    def _by_weight(self) -> list[tuple[Service, _Service]]:
        """Services, those that waited longest first."""
        return sorted(self._services.items(), key=lambda item: (-item[1].longest_ms, item[0]))

    def _line(self, record: dict[str, Any]) -> None:
        self._stream.write(json.dumps(record, separators=(",", ":")) + "\n")

    def _service_as_json(self, name: Service, service: _Service) -> dict[str, Any]:
        bracket = self._silences.bracket(name)
        record: dict[str, Any] = {
            "report": "service",
            "service": _named(name),
            "raddr": name.host,
            "lport" if name.is_local else "rport": name.port,
            "stalls": service.verdicts.total(),
            "hosts": len(service.hosts),
            "verdicts": dict(service.verdicts.most_common()),
            "outcomes": dict(service.outcomes.most_common()),
            "longest_ms": service.longest_ms,
        }
        if bracket.survived_ms is not None:
            record["survived_ms"] = bracket.survived_ms
        if bracket.fatal_ms is not None:
            record["fatal_ms"] = bracket.fatal_ms
            record["known_timeouts"] = [{"name": box.name, "timeout_s": box.timeout_s} for box in matching(bracket)]
        suspects = self._suspects.get(name)
        if suspects:
            record["probably_dead"] = [to_json(each) for each in suspects.values()]
        record["advice"] = service.all_advice
        return record

    def _summary_as_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {"report": "summary", "hosts": list(self._hosts), "events": self._events}
        if self._first_ns is not None:
            record["first"], record["last"] = format_time(self._first_ns), format_time(self._last_ns)
        record["stalls"] = self._count
        record["lost"] = self._lost.total()
        if self._counted.namespaces() and not self._filtered:
            record["counted"], record["seen"] = _named_counts(self._counted), _named_counts(self._seen)
            record["is_incomplete"] = bool(self._missed())
        if self._forgotten:
            record["services_left_out"] = self._forgotten
        return record

    def _text(self) -> str:
        parts = [self._headline()]
        if self._lost:
            lost = ", ".join(f"{count:,} at {safe(hook)}" for hook, count in self._lost.most_common())
            parts.append(f"Events were lost while recording ({lost}): there may have been more than this shows.\n")
        if self._counted.namespaces() and not self._filtered:
            for sentence in (self._truth(), self._missed()):
                parts += ["".join(f"{line}\n" for line in textwrap.wrap(sentence, self._width))] if sentence else []
        if self._stalls:
            parts.append(self._stall_table())
            services = self._by_weight()
            parts.append(self._service_table(services))
            parts += [text for name, service in services[:SHOWN_SERVICES] if (text := self._about(name, service))]
        if self._forgotten:
            parts.append(f"{plural(self._forgotten, 'service')} more had stalls, and were left out.\n")
        return "\n".join(parts)

    def _headline(self) -> str:
        hosts = [safe(host) for host in self._hosts]
        more = plural(len(hosts) - SHOWN_HOSTS, "other host") if len(hosts) > SHOWN_HOSTS else ""
        where = " and ".join([*hosts[:SHOWN_HOSTS], *([more] if more else [])])
        if self._first_ns is None:
            return f"{where}: nothing was recorded.\n"
        lasted = duration((self._last_ns - self._first_ns) / 1_000_000)
        stalls = plural(self._count, "stall") if self._count else "no stall"
        return (
            f"{where}: {stalls}, {plural(self._events, 'event')} in {lasted}, from {self._when(self._first_ns)} on.\n"
        )

    def _truth(self) -> str:
        out_of_sight = self._seen.total(without=self._counted.namespaces())
        said = beside_the_kernel(self._seen.total(), self._counted.total(), out_of_sight)
        return f"{said[:1].upper()}{said[1:]}."

    def _missed(self) -> str:
        seen, counted = Tally(), Tally()
        for netns in self._counted.namespaces():
            if netns not in self._late:
                seen.add(netns, self._seen.of(netns))
                counted.add(netns, self._counted.of(netns))
        said = what_was_missed(seen.total(), counted.total())
        return f"{said}." if said else ""

    def _spans_days(self) -> bool:
        return self._when(self._first_ns or 0)[:10] != self._when(self._last_ns)[:10]

    def _when(self, time_ns: int) -> str:
        date, clock = local_time(time_ns, self._utc_offset_s)
        return f"{date} {clock[:8]}"

    def _stall_table(self) -> str:
        rows = []
        several = len(self._hosts) > 1
        in_order = sorted((_began_ns(stall), number, host, stall) for _, number, host, stall in self._stalls)
        for began_ns, _, host, stall in in_order:
            owner = process(stall)
            rows.append(
                (
                    self._when(began_ns)[0 if self._spans_days() else 11 :],
                    *([safe(host)] if several else []),
                    endpoint(stall.laddr, stall.lport),
                    endpoint(stall.raddr, stall.rport),
                    "-" if stall.idle_ms is None else duration(stall.idle_ms),
                    stall.verdict or "?",
                    stall.outcome or "?",
                    duration(stall.duration_ms or 0),
                    owner,
                )
            )
        text = table(
            [
                "BEGAN",
                *(["HOST"] if several else []),
                "LOCAL",
                "REMOTE",
                "IDLE",
                "VERDICT",
                "OUTCOME",
                "LASTED",
                "OWNER",
            ],
            rows,
        )
        more = self._count - len(self._stalls)
        return text + (f"… and {plural(more, 'shorter one')}; --json has them all.\n" if more else "")

    def _service_table(self, services: list[tuple[Service, _Service]]) -> str:
        rows = []
        several = len(self._hosts) > 1
        for name, service in services[:SHOWN_SERVICES]:
            bracket = self._silences.bracket(name)
            rows.append(
                (
                    _named(name),
                    f"{service.verdicts.total():,}",
                    *([f"{len(service.hosts):,}"] if several else []),
                    "-" if bracket.survived_ms is None else duration(bracket.survived_ms),
                    "-" if bracket.fatal_ms is None else duration(bracket.fatal_ms),
                    duration(service.longest_ms),
                    ", ".join(f"{count:,} {verdict}" for verdict, count in service.verdicts.most_common()),
                )
            )
        headings = ["SURVIVED", "FATAL", "LONGEST", "VERDICTS"]
        text = table(["SERVICE", "STALLS", *(["HOSTS"] if several else []), *headings], rows)
        more = len(services) - len(rows)
        return text + (f"… and {plural(more, 'other service')}; --json has them all.\n" if more else "")

    def _suspects_in_words(self, name: Service) -> list[str]:
        suspects = sorted(self._suspects.get(name, {}).values(), key=lambda event: -(event.silent_ms or 0))
        if not suspects:
            return []
        shown = [
            f"{endpoint(each.laddr, each.lport)} {process(each)} ({duration(each.silent_ms or 0)})"
            for each in suspects[:SHOWN_SUSPECTS]
        ]
        more = [f"{len(suspects) - SHOWN_SUSPECTS:,} more"] if len(suspects) > SHOWN_SUSPECTS else []
        were = "connection was" if len(suspects) == 1 else "connections were"
        return [
            f"{len(suspects):,} other {were} open and silent for longer, and probably dead as well: "
            f"{', '.join([*shown, *more])}."
        ]

    def _about(self, name: Service, service: _Service) -> str:
        """What is to be said about one service: its bracket, and the advice."""
        sentences = [*bracket_in_words(self._silences.bracket(name)), *self._suspects_in_words(name)]
        advice = [f"→ {safe(line)}" for line in service.all_advice]
        if not sentences and not advice:
            return ""
        lines = [line for sentence in (*sentences, *advice) for line in wrapped(sentence, self._width)]
        return "\n".join([f"{_named(name)}", *lines]) + "\n"


def _began_ns(stall: Event) -> int:
    """When what was unanswered was first sent; of a recording that does not say, when it was first noticed."""
    if stall.since is not None:
        with suppress(InvalidEvent):
            return parse_time(stall.since)
    return stall.time_ns - (stall.duration_ms or 0) * 1_000_000


def _named_counts(tally: Tally) -> dict[str, int]:
    total = tally.total()
    return {"retrans_segs": total.segments, "keepalives": total.keepalives, "timeouts": total.timeouts}


def _named(service: Service) -> str:
    if service.is_local:
        return f"port {service.port} here, from {endpoint(service.host, None).removesuffix(':*')}"
    return endpoint(service.host, service.port)

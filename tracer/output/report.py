"""`tcpwatch report`: the stalls of a recording, each service's idle bracket, and what to change."""

from __future__ import annotations

import heapq
import json
import textwrap
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TextIO

from tracer.analysis.idle_timeouts import Service, Silences, service_of
from tracer.analysis.middleboxes import matching
from tracer.analysis.verdicts import WITHOUT_EVIDENCE
from tracer.model.counts import Tally, counts_of, counts_of_kernel
from tracer.model.events import Event, size_of
from tracer.model.recent import Recent
from tracer.model.times import InvalidTime, format_time, parse_time
from tracer.model.validation import to_json
from tracer.output.advice import OwnersAdvice
from tracer.output.crosscheck import beside_the_kernel, what_was_missed
from tracer.output.format import duration, endpoint, local_time, plural, process, quoted, safe
from tracer.output.idle_timeouts import bracket_in_words
from tracer.output.stall_text import COMMANDS, wrapped
from tracer.output.table import table
from tracer.recordings.header import Header

LONGEST_STALLS = 50
"""Stalls in the text report: the longest. The JSON has all."""
MAX_SERVICES = 8192
"""Services that are told apart. Of more, those with the shortest stalls are counted together."""
SHOWN_SERVICES = 20
MAX_OWNERS = 4096
"""Owners, of all services, whose advice is kept: those that stalled last."""
MAX_WORDS = 16
"""Verdicts, or outcomes, of a service that are told apart: more than we know. Further ones are `other`."""
MAX_ALL_WORDS = 64
"""Verdicts and outcomes of all services that are told apart."""
MAX_HOSTS_OF_SERVICES = 65536
"""Hosts of all services together. Further ones are not counted as a service's."""
MAX_SUSPECTS = 2048
MAX_SUSPECTS_BYTES = 4 << 20
SHOWN_SUSPECTS = 8
MAX_REVOCABLE = 8192
MAX_REVOCABLE_BYTES = 6 << 20
"""Stalls that ended without evidence and may go on yet, and their memory."""
UNKNOWN_HOST = "an unknown host"
MAX_HOSTS = 4096
"""Hosts that are told apart: a file may have any number of recordings."""
SHOWN_HOSTS = 8
MAX_HOOKS = 64
"""Hooks whose lost events are counted apart: more than there are."""
MAX_NAMESPACES = 4096
MAX_MISSING = 1000
SHOWN_MISSING = 10
OTHER = "other"


class _Missing(NamedTuple):
    """A file that could not be read whole. until_ns: its events up to then are there; None where it has none."""

    file: str
    reason: str
    until_ns: int | None


@dataclass(slots=True)
class _Service:
    """What happened to the connections of one service."""

    verdicts: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    longest_ms: int = 0
    hosts: set[int] = field(default_factory=set)  # their hashes

    def add(self, verdict: str, outcome: str, duration_ms: int) -> None:
        """Count a stall."""
        _count(self.verdicts, verdict, 1, MAX_WORDS)
        _count(self.outcomes, outcome, 1, MAX_WORDS)
        self.longest_ms = max(self.longest_ms, duration_ms)

    def take(self, other: _Service) -> None:
        """Count the stalls of another one here as well."""
        for verdict, count in other.verdicts.items():
            _count(self.verdicts, verdict, count, MAX_WORDS)
        for outcome, count in other.outcomes.items():
            _count(self.outcomes, outcome, count, MAX_WORDS)
        self.longest_ms = max(self.longest_ms, other.longest_ms)


class _Stall(NamedTuple):
    """What a stall's row in the table says."""

    duration_ms: int
    number: int
    began_ns: int
    host: str
    local: str
    remote: str
    idle_ms: int | None
    verdict: str
    outcome: str
    owner: str


class Report:
    """A sink that keeps what a report needs, of whatever size the recordings are.

    silences is the one that the stall tracker fills. as_json: stalls are written as they come, one object a line, and
    `close` adds an object for each service and a summary. here: this host's name; commands for another one say so.
    unfollowed: how many connections stalled beside those that could be followed. is_filtered: the command line's
    filters leave out events that the kernel counts.
    """

    def __init__(
        self,
        stream: TextIO,
        silences: Silences,
        *,
        as_json: bool,
        width: int,
        here: str = "",
        unfollowed: Callable[[], int] = lambda: 0,
        is_filtered: bool = False,
    ) -> None:
        self._stream = stream
        self._silences = silences
        self._as_json = as_json
        self._width = width
        self._here = here
        self._unfollowed = unfollowed
        self._missing: list[_Missing] = []
        self._missing_count = 0
        self._services: dict[Service, _Service] = {}
        self._others = _Service()  # those that are not told apart
        self._hosts_of_services = 0
        self._advice: OrderedDict[tuple[Service, str], OwnersAdvice] = OrderedDict()  # by service and verdict
        self._owners = 0
        self._without_advice = 0  # of a service and verdict
        self._words: dict[str, str] = {}  # verdicts and outcomes
        self._stalls: list[_Stall] = []  # a heap
        # Ends without evidence, by host and id.
        self._revocable: Recent[tuple[str, str], Event] = Recent(MAX_REVOCABLE, MAX_REVOCABLE_BYTES, size_of)
        # Connections that were found silent for longer than was fatal, by service and socket.
        self._suspects: Recent[tuple[Service, str], Event] = Recent(MAX_SUSPECTS, MAX_SUSPECTS_BYTES, size_of)
        self._suspects_left_out = 0
        self._count = 0
        self._events = 0
        self._lost: Counter[str] = Counter()
        self._run = ""
        self._filtered = is_filtered
        self._late: set[int | None] = set()  # namespaces whose counts may be of the time before
        self._seen, self._counted = Tally(), Tally()
        self._uncompared = Tally()  # seen since the kernel's counts were last recorded
        self._first_ns: int | None = None
        self._last_ns = 0
        self._hosts: dict[str, None] = {}  # as a set that keeps its order
        self._host = UNKNOWN_HOST  # of the recording that is read
        self._utc_offset_s = 0

    def opened(self, header: Header) -> None:
        """A recording begins: its host, its time zone, and whether its filters leave out events."""
        self._filtered = self._filtered or not header.keeps_counts
        if header.run != self._run:
            self._uncompared.clear()
        self._run = header.run
        self._host = header.host or UNKNOWN_HOST
        if self._as_json and not self._hosts:
            for missing in self._missing:
                self._line({"report": "missing", **self._missing_as_json(missing)})
        if len(self._hosts) < MAX_HOSTS:
            self._hosts.setdefault(self._host)
        self._utc_offset_s = header.utc_offset_s

    def missing(self, file: str, reason: str, until_ns: int | None, *, is_failure: bool) -> None:
        """A file, or what comes after until_ns in it, is not in this report. is_failure: it should be."""
        self._missing_count += 1
        missing = _Missing(file, reason, until_ns)
        if len(self._missing) < MAX_MISSING:
            self._missing.append(missing)
        if is_failure:
            # The kernel counted events that are in what is missing.
            self._filtered = True
        if self._as_json and self._hosts:
            self._line({"report": "missing", **self._missing_as_json(missing)})

    def write(self, events: Iterable[Event]) -> None:
        """Take events."""
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
                _count(self._lost, event.hook or "an unknown hook", event.count, MAX_HOOKS, "other hooks")
        elif kind == "counters":
            self._counted.add(event.netns, counts_of_kernel(event))
            if event.late and len(self._late) < MAX_NAMESPACES:
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
            self._revocable.pop(key)
        if stall.phase != "end":
            return
        if stall.outcome not in WITHOUT_EVIDENCE:
            self._add(self._host, stall)
            return
        for (host, _), oldest in self._revocable.put(key, stall):
            self._add(host, oldest)

    def _suspect(self, event: Event) -> None:
        name = service_of(event)
        if name is not None and event.sock is not None:
            self._suspects_left_out += len(self._suspects.put((name, event.sock), event))

    def flush(self, until_ns: int) -> None:
        """Show what was written."""
        self._stream.flush()

    def _add(self, host: str, stall: Event) -> None:
        self._count += 1
        duration_ms = stall.duration_ms or 0
        if self._as_json:
            self._line({**to_json(stall), "host": host})
        elif len(self._stalls) < LONGEST_STALLS or duration_ms >= self._stalls[0].duration_ms:
            heapq.heappush(self._stalls, _row(stall, self._count, host))
            if len(self._stalls) > LONGEST_STALLS:
                heapq.heappop(self._stalls)
        name = service_of(stall)
        if name is None:
            return
        verdict, outcome = self._word(stall.verdict or "?"), self._word(stall.outcome or "?")
        service = self._services.setdefault(name, _Service())
        service.add(verdict, outcome, duration_ms)
        if self._hosts_of_services < MAX_HOSTS_OF_SERVICES or not service.hosts:
            self._hosts_of_services -= len(service.hosts)
            service.hosts.add(hash(host))
            self._hosts_of_services += len(service.hosts)
        if stall.outcome != "recovered":
            self._advise(name, verdict, host, stall)
        if len(self._services) > MAX_SERVICES:
            self._fold_services()

    def _word(self, word: str) -> str:
        """The verdict or outcome, in memory only once; OTHER where there are more than we can know."""
        if word not in self._words and len(self._words) >= MAX_ALL_WORDS:
            return OTHER
        return self._words.setdefault(word, word)

    def _advise(self, name: Service, verdict: str, host: str, stall: Event) -> None:
        key = (name, verdict)
        owners = self._advice.setdefault(key, OwnersAdvice())
        self._advice.move_to_end(key)
        self._owners -= len(owners)
        owners.add(host, stall, [self._for_host(line, host) for line in stall.advice or ()])
        self._owners += len(owners)
        while self._owners > MAX_OWNERS:
            self._owners -= len(self._advice.popitem(last=False)[1])
            self._without_advice += 1

    def _fold_services(self) -> None:
        """Count the half whose stalls were the shortest together."""
        for name, service in self._by_weight()[MAX_SERVICES // 2 :]:
            self._others.take(service)
            self._hosts_of_services -= len(service.hosts)
            del self._services[name]

    def _advice_of(self, name: Service) -> list[str]:
        """Each sentence once, those for the most frequent verdict first."""
        verdicts = (verdict for verdict, _ in self._services[name].verdicts.most_common())
        owners = (self._advice[name, each] for each in verdicts if (name, each) in self._advice)
        return list(dict.fromkeys(line for each in owners for line in each.lines()))

    def _for_host(self, line: str, host: str) -> str:
        """The line of advice, with the host that its command is for, where that is not this one.

        `ss -t…`, and what follows `There`, is for the peer.
        """
        text, colon, command = line.rpartition(": ")
        if host in (self._here, UNKNOWN_HOST) or not (colon and command.startswith(COMMANDS)):
            return line
        if command.startswith("ss -t") or text.endswith("There"):
            return line
        return f"{text}, on {quoted(host)}: {command}"

    def close(self) -> None:
        """Nothing comes any more: the report, unless there was nothing to read."""
        if not self._hosts:
            return
        for (host, _), stall in self._revocable.take_all():
            self._add(host, stall)
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
        suspects = self._suspects_of.get(name)
        if suspects:
            record["probably_dead"] = [to_json(each) for each in suspects]
        record["advice"] = self._advice_of(name)
        return record

    def _summary_as_json(self) -> dict[str, Any]:
        record: dict[str, Any] = {"report": "summary", "hosts": list(self._hosts), "events": self._events}
        if self._first_ns is not None:
            record["first"], record["last"] = format_time(self._first_ns), format_time(self._last_ns)
        if self._missing:
            record["missing"] = [self._missing_as_json(each) for each in self._missing]
            record["files_missing"] = self._missing_count
        record["stalls"] = self._count
        record["lost"] = self._lost.total()
        if self._counted.namespaces() and not self._filtered:
            record["counted"], record["seen"] = _named_counts(self._counted), _named_counts(self._seen)
            record["is_incomplete"] = bool(self._missed())
        if self._others.verdicts:
            record["other_services"] = {
                "stalls": self._others.verdicts.total(),
                "verdicts": dict(self._others.verdicts.most_common()),
                "outcomes": dict(self._others.outcomes.most_common()),
                "longest_ms": self._others.longest_ms,
            }
        if self._unfollowed():
            record["not_followed"] = self._unfollowed()
        if self._without_advice:
            record["advice_left_out"] = self._without_advice
        if self._suspects_left_out:
            record["probably_dead_left_out"] = self._suspects_left_out
        if self._hosts_of_services >= MAX_HOSTS_OF_SERVICES or len(self._hosts) >= MAX_HOSTS:
            record["hosts_left_out"] = True
        return record

    def _text(self) -> str:
        parts = [self._missing_in_words()] if self._missing else []
        parts.append(self._headline())
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
        parts += [f"{line}\n" for line in self._left_out()]
        return "\n".join(parts)

    def _missing_as_json(self, missing: _Missing) -> dict[str, Any]:
        until = {} if missing.until_ns is None else {"until": format_time(missing.until_ns)}
        return {"file": missing.file, "reason": missing.reason, **until}

    def _missing_in_words(self) -> str:
        lines = ["Missing from this report:"]
        for file, reason, until_ns in self._missing[:SHOWN_MISSING]:
            until = "" if until_ns is None else f" (last event: {self._when(until_ns)})"
            lines += wrapped(f"{safe(file)}: {safe(reason)}{until}", self._width)
        more = self._missing_count - SHOWN_MISSING
        if more > 0:
            lines.append(f"    and {plural(more, 'other file')}")
        return "\n".join(lines) + "\n"

    def _left_out(self) -> Iterator[str]:
        """Sentences about what would have taken too much memory."""
        if self._others.verdicts:
            stalls, longest = self._others.verdicts.total(), duration(self._others.longest_ms)
            yield f"{plural(stalls, 'stall')} of at most {longest} had other services, too many to be listed."
        if self._unfollowed():
            yield (
                f"{plural(self._unfollowed(), 'stall')} of those counted as ongoing ended unseen: "
                "too many connections stalled at once to be followed."
            )
        if self._without_advice:
            services = plural(self._without_advice, "other service")
            yield f"The advice for {services} is left out: too many owners stalled."
        if self._suspects_left_out:
            yield f"{plural(self._suspects_left_out, 'connection')} more were probably dead as well."

    def _headline(self) -> str:
        hosts = [safe(host) for host in self._hosts]
        more = plural(len(hosts) - SHOWN_HOSTS, "other host") if len(hosts) > SHOWN_HOSTS else ""
        if len(hosts) >= MAX_HOSTS:
            more = f"at least {more}"
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
        for stall in sorted(self._stalls, key=lambda each: (each.began_ns, each.number)):
            rows.append(
                (
                    self._when(stall.began_ns)[0 if self._spans_days() else 11 :],
                    *([safe(stall.host)] if several else []),
                    stall.local,
                    stall.remote,
                    "-" if stall.idle_ms is None else duration(stall.idle_ms),
                    stall.verdict,
                    stall.outcome,
                    duration(stall.duration_ms),
                    stall.owner,
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

    @cached_property
    def _suspects_of(self) -> dict[Service, list[Event]]:
        """By service, once nothing comes any more."""
        by_service: dict[Service, list[Event]] = {}
        for (name, _), event in self._suspects.items():
            by_service.setdefault(name, []).append(event)
        return by_service

    def _suspects_in_words(self, name: Service) -> list[str]:
        suspects = sorted(self._suspects_of.get(name, ()), key=lambda event: -(event.silent_ms or 0))
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
        advice = [f"→ {safe(line)}" for line in self._advice_of(name)]
        if not sentences and not advice:
            return ""
        lines = [line for sentence in (*sentences, *advice) for line in wrapped(sentence, self._width)]
        return "\n".join([f"{_named(name)}", *lines]) + "\n"


def _count(counts: Counter[str], name: str, count: int, most: int, other: str = OTHER) -> None:
    """Count under that name, or as other where there are so many already."""
    counts[name if name in counts or len(counts) < most else other] += count


def _row(stall: Event, number: int, host: str) -> _Stall:
    return _Stall(
        duration_ms=stall.duration_ms or 0,
        number=number,
        began_ns=_began_ns(stall),
        host=host,
        local=endpoint(stall.laddr, stall.lport),
        remote=endpoint(stall.raddr, stall.rport),
        idle_ms=stall.idle_ms,
        verdict=stall.verdict or "?",
        outcome=stall.outcome or "?",
        owner=process(stall),
    )


def _began_ns(stall: Event) -> int:
    """When what was unanswered was first sent; of a recording that does not say, when it was first noticed."""
    if stall.since is not None:
        with suppress(InvalidTime):
            return parse_time(stall.since)
    return stall.time_ns - (stall.duration_ms or 0) * 1_000_000


def _named_counts(tally: Tally) -> dict[str, int]:
    total = tally.total()
    return {"retrans_segs": total.segments, "keepalives": total.keepalives, "timeouts": total.timeouts}


def _named(service: Service) -> str:
    if service.is_local:
        return f"port {service.port} here, from {endpoint(service.host, None).removesuffix(':*')}"
    return endpoint(service.host, service.port)

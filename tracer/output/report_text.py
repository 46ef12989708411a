"""The text of a report: the stalls, the services, and what to change."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from tracer.analysis.idle_timeouts import Service
from tracer.model.events import Event
from tracer.output.crosscheck import beside_the_kernel
from tracer.output.format import duration, endpoint, local_time, plural, process, safe
from tracer.output.idle_timeouts import range_in_words
from tracer.output.report_data import MAX_HOSTS, ReportData
from tracer.output.report_rows import ServiceStalls, StallRow, service_name
from tracer.output.stall_text import wrapped
from tracer.output.table import table

MAX_SHOWN_SERVICES = 20
MAX_SHOWN_SUSPECTS = 8
MAX_SHOWN_HOSTS = 8
MAX_SHOWN_MISSING = 10


class ReportText:
    """Writes the report of data. width: columns of the sentences. unfollowed: stalls that could not be followed."""

    def __init__(self, data: ReportData, width: int, unfollowed: int) -> None:
        self._data = data
        self._width = width
        self._unfollowed = unfollowed
        self._has_hosts = len(data.hosts) > 1

    def text(self) -> str:
        """The whole report: paragraphs and tables, with an empty line between them."""
        data = self._data
        parts = [self._missing()] if data.missing else []
        parts.append(self._headline())
        if data.lost:
            lost = ", ".join(f"{count:,} at {safe(hook)}" for hook, count in data.lost.most_common())
            parts.append(f"Events were lost while recording ({lost}), so this report may be incomplete.\n")
        if data.is_counted:
            for sentence in (self._crosscheck(), data.missed()):
                parts += ["".join(f"{line}\n" for line in textwrap.wrap(sentence, self._width))] if sentence else []
        if data.rows:
            services = data.by_weight()
            parts += [self._stall_table(), self._service_table(services)]
            parts += [text for service, _ in services[:MAX_SHOWN_SERVICES] if (text := self._about(service))]
        parts += [f"{line}\n" for line in self._left_out()]
        return "\n".join(parts)

    def _missing(self) -> str:
        lines = ["Missing from this report:"]
        for file, reason, until_ns in self._data.missing[:MAX_SHOWN_MISSING]:
            until = "" if until_ns is None else f" (last event: {self._when(until_ns)})"
            lines += wrapped(f"{safe(file)}: {safe(reason)}{until}", self._width)
        more = self._data.missing_count - MAX_SHOWN_MISSING
        if more > 0:
            lines.append(f"    and {plural(more, 'other file')}")
        return "\n".join(lines) + "\n"

    def _left_out(self) -> Iterator[str]:
        """Sentences about what would have taken too much memory."""
        data = self._data
        if data.others.verdicts:
            stalls, longest = data.others.verdicts.total(), duration(data.others.longest_ms)
            yield (
                f"{plural(stalls, 'stall')} of at most {longest} had services that are not listed, "
                "because there are too many."
            )
        if self._unfollowed:
            yield (
                f"{plural(self._unfollowed, 'stall')} of those counted as ongoing ended unseen, "
                "because too many connections stalled at once."
            )
        if data.without_advice:
            services = plural(data.without_advice, "other service")
            yield f"The advice for {services} is left out, because too many owners stalled."
        if data.suspects_left_out:
            yield f"Of the connections that were probably dead as well, {data.suspects_left_out:,} are not listed."

    def _headline(self) -> str:
        data = self._data
        hosts = [safe(host) for host in data.hosts]
        more = plural(len(hosts) - MAX_SHOWN_HOSTS, "other host") if len(hosts) > MAX_SHOWN_HOSTS else ""
        if len(hosts) >= MAX_HOSTS:
            more = f"at least {more}"
        where = " and ".join([*hosts[:MAX_SHOWN_HOSTS], *([more] if more else [])])
        if data.first_ns is None or data.last_ns is None:
            return f"{where}: nothing was recorded.\n"
        lasted = duration((data.last_ns - data.first_ns) / 1_000_000)
        stalls = plural(data.stalls, "stall") if data.stalls else "no stall"
        events = plural(data.events, "event")
        return f"{where}: {stalls}, {events} in {lasted}, from {self._when(data.first_ns)} on.\n"

    def _crosscheck(self) -> str:
        data = self._data
        out_of_sight = data.seen.total(without=data.counted.namespaces())
        sentence = beside_the_kernel(data.seen.total(), data.counted.total(), out_of_sight)
        return f"{sentence[:1].upper()}{sentence[1:]}."

    def _when(self, time_ns: int) -> str:
        date, clock = local_time(time_ns, self._data.utc_offset_s)
        return f"{date} {clock[:8]}"

    def _stall_table(self) -> str:
        data = self._data
        assert data.first_ns is not None and data.last_ns is not None
        spans_days = self._when(data.first_ns)[:10] != self._when(data.last_ns)[:10]
        began_from = 0 if spans_days else 11
        rows = sorted(data.rows, key=lambda row: (row.began_ns, row.number))
        headings = [
            "BEGAN",
            *self._if_hosts("HOST"),
            "LOCAL",
            "REMOTE",
            "IDLE",
            "VERDICT",
            "OUTCOME",
            "LASTED",
            "OWNER",
        ]
        text = table(headings, [self._stall_row(row, began_from) for row in rows])
        more = data.stalls - len(data.rows)
        return text + (f"… and {plural(more, 'shorter one')}; --json has them all.\n" if more else "")

    def _stall_row(self, row: StallRow, began_from: int) -> tuple[str, ...]:
        return (
            self._when(row.began_ns)[began_from:],
            *self._if_hosts(safe(row.host)),
            row.local,
            row.remote,
            _duration(row.idle_ms),
            row.verdict,
            row.outcome,
            _duration(row.lasted_ms),
            row.owner,
        )

    def _service_table(self, services: list[tuple[Service, ServiceStalls]]) -> str:
        shown = services[:MAX_SHOWN_SERVICES]
        headings = ["SERVICE", "STALLS", *self._if_hosts("HOSTS"), "SURVIVED", "FATAL", "LONGEST", "VERDICTS"]
        text = table(headings, [self._service_row(service, stalls) for service, stalls in shown])
        more = len(services) - len(shown)
        return text + (f"… and {plural(more, 'other service')}; --json has them all.\n" if more else "")

    def _service_row(self, service: Service, stalls: ServiceStalls) -> tuple[str, ...]:
        idle_timeout = self._data.idle_timeouts.range_of(service)
        return (
            service_name(service),
            f"{stalls.verdicts.total():,}",
            *self._if_hosts(f"{len(stalls.hosts):,}"),
            _duration(idle_timeout.survived_ms),
            _duration(idle_timeout.fatal_ms),
            duration(stalls.longest_ms),
            ", ".join(f"{count:,} {verdict}" for verdict, count in stalls.verdicts.most_common()),
        )

    def _if_hosts(self, cell: str) -> list[str]:
        """A cell that a table has only where there are several hosts."""
        return [cell] if self._has_hosts else []

    def _about(self, service: Service) -> str:
        """A paragraph about one service: the range of its idle timeout, other dead connections, and the advice."""
        sentences = [*range_in_words(self._data.idle_timeouts.range_of(service)), *self._suspects(service)]
        advice = [f"→ {safe(line)}" for line in self._data.advice_of(service)]
        if not sentences and not advice:
            return ""
        lines = [line for sentence in (*sentences, *advice) for line in wrapped(sentence, self._width)]
        return "\n".join([service_name(service), *lines]) + "\n"

    def _suspects(self, service: Service) -> list[str]:
        suspects = sorted(self._data.suspects.get(service, ()), key=_longest_silence_first)
        if not suspects:
            return []
        shown = [
            f"{endpoint(each.laddr, each.lport)} {process(each)} ({_duration(each.silent_ms)})"
            for each in suspects[:MAX_SHOWN_SUSPECTS]
        ]
        more = [f"{len(suspects) - MAX_SHOWN_SUSPECTS:,} more"] if len(suspects) > MAX_SHOWN_SUSPECTS else []
        were = "connection was" if len(suspects) == 1 else "connections were"
        return [
            f"{len(suspects):,} other {were} open and silent for longer, and probably dead as well: "
            f"{', '.join([*shown, *more])}."
        ]


def _duration(ms: int | None) -> str:
    """A duration for a table; `-` where it is not known."""
    return "-" if ms is None else duration(ms)


def _longest_silence_first(event: Event) -> int:
    return 0 if event.silent_ms is None else -event.silent_ms

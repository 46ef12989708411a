"""Events as text for a person: a line for most events, an account for each incident."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from tracer.analysis.incidents import began_ns
from tracer.analysis.stalls import MIN_IDLE_MS
from tracer.model.events import Event
from tracer.model.kinds import Kind
from tracer.output import event_line
from tracer.output.accounts import Account, Accounts, News, Notice
from tracer.output.background_writer import Stream
from tracer.output.event_line import Columns
from tracer.output.folding import Folding
from tracer.output.format import in_plain, local_time, plural, safe
from tracer.output.incident_text import MAX_BLOCK, IncidentText
from tracer.output.page import Page
from tracer.output.view import View
from tracer.recordings.header import Header

STARTING_NS = 200_000_000
"""After the start, the stalls that the first walk over all sockets finds are collected for this long."""
MAX_LISTED = 6
"""Incidents in the list of what waits already."""
MAX_BLOCKS = 2
"""As many incidents that wait already are explained at once; more are listed, and the worst is explained."""
JUST_BEFORE_NS = 100_000_000
"""An event this long before the account of its stall is part of that account, and has no line."""
_REMIND_AFTER_NS = 5_000_000_000

_COLOURS: dict[str, dict[str, object]] = {
    "retransmit": {"fg": "yellow"},
    "keepalive": {"fg": "blue"},
    "window-probe": {"fg": "blue"},
    "unsent": {"fg": "yellow"},
    "found": {"fg": "yellow"},
    "waiting": {"fg": "blue"},
    "resume": {"fg": "green"},
    "action": {"fg": "cyan", "bold": True},
    "state": {"dim": True},
    "reset": {"fg": "magenta"},
    "error": {"fg": "red", "bold": True},
    "stall": {"fg": "red", "bold": True},
    "lost": {"fg": "red"},
    "list": {"bold": True},
}


class TextSink:
    """Writes lines of events, and the accounts of incidents.

    What hangs already when tracing starts comes first. On a terminal similar lines are counted, and what still waits
    is printed again before it scrolls off. A heading with the date precedes the first line of each day.
    is_empty: no line was written so far.
    utc_offset_s: the time zone of the times, seconds east of UTC, until a header has another.
    """

    def __init__(self, stream: Stream, page: Page, *, utc_offset_s: int = 0) -> None:
        self.is_empty = True
        self._stream = stream
        self._page = page
        self._utc_offset_s = utc_offset_s
        self._plain = not _can_encode(stream, "→×…–")
        self._columns = Columns(page.columns)
        self._view = View(shows_all=page.shows_all, min_idle_ms=MIN_IDLE_MS)
        self._accounts = Accounts(shows_orphans=page.shows_all)
        self._incidents = IncidentText(page)
        self._folding = Folding() if page.folded else None
        self._date = self._run = self._host = ""
        self._started_ns: int | None = None  # while the start is collected: when tracing began, CLOCK_BOOTTIME
        self._already: list[tuple[Account, Event]] = []
        self._offset_ns = 0  # wall clock minus CLOCK_BOOTTIME, of the newest event
        self._lines = 0  # since the last block
        self._reminded_ns = 0

    def opened(self, header: Header) -> None:
        """Use the time zone and the --min-idle of the recorded host."""
        self._utc_offset_s = header.utc_offset_s
        if header.run and header.run == self._run:
            return  # the next file of a series
        self._run = header.run
        self._end_start(None)
        if header.host != self._host:
            self._print(self._accounts.rest())
            self._accounts = Accounts(header.host, shows_orphans=self._page.shows_all)
            self._date = ""
        self._host = header.host
        self._incidents.other_host = self._other_host
        min_idle_ms = MIN_IDLE_MS if header.min_idle_ms is None else header.min_idle_ms
        self._view = View(shows_all=self._page.shows_all, min_idle_ms=min_idle_ms)
        self._started_ns = header.started_ns or None

    @property
    def _other_host(self) -> str:
        """The host of the events, if that is not this one."""
        return "" if self._host == self._page.here else self._host

    def write(self, events: Sequence[Event]) -> None:
        """Write the lines of events."""
        covered = frozenset() if self._page.is_verbose else frozenset(self._covered(events))
        for position, event in enumerate(events):
            self._offset_ns = event.time_ns - event.ktime_ns
            self._end_start(event.ktime_ns)
            self._print_due(event.time_ns)
            is_shown = self._view.shows(event)
            if event.event == Kind.STALL:
                self._account(event)
            elif is_shown and position not in covered and not self._is_summed_up(event):
                self._write_event(event)

    def _covered(self, events: Sequence[Event]) -> Iterator[int]:
        """The positions of events that the account of their stall describes, which follows them at once."""
        accounts: dict[str | None, int] = {}
        for position in reversed(range(len(events))):
            event = events[position]
            if event.event == Kind.STALL:
                # An update may have no line.
                if event.phase != "update" and not self._accounts.is_quiet(event):
                    accounts[event.sock] = event.ktime_ns
            elif event.sock in accounts and 0 <= accounts[event.sock] - event.ktime_ns <= JUST_BEFORE_NS:
                yield position

    def _is_summed_up(self, event: Event) -> bool:
        return not self._page.is_verbose and self._accounts.sums_up(event.sock)

    def flush(self, until_ns: int) -> None:
        """Flush the stream, after what is due by until_ns."""
        self._end_start(until_ns)
        self._print_due(until_ns + self._offset_ns)
        self._remind(until_ns + self._offset_ns)
        self._stream.flush()

    def close(self) -> None:
        """Write what is left, and flush the stream."""
        self._end_start(None)
        self._print(self._accounts.rest())
        if self._folding is not None:
            self._put(self._folding.rest(), "lost")
        self._stream.flush()

    def _write_event(self, event: Event) -> None:
        if self._folding is not None and not self._folding.has_room(event, beside_stalls=self._accounts.has_open):
            return
        self._head(event.time_ns)
        if event.event == Kind.LOST:
            time = self._columns.time(event.time_ns, self._utc_offset_s)
            self._put([f"{time} {event_line.lost(event)}"], "lost")
        else:
            self._put(self._columns.lines(event, self._utc_offset_s), event.event)

    def _account(self, stall: Event) -> None:
        if stall.phase == "end" and self._already:
            self._end_start(None)  # or the end of a stall would come before its account
        for notice in self._accounts.take(stall):
            started_ns = self._started_ns if notice.news is News.BEGAN else None
            if started_ns is not None and began_ns(stall) < started_ns + self._offset_ns:
                self._already.append((notice.account, stall))
            else:
                self._print([notice])

    def _print(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            at_ns = (notice.stall or notice.account.newest).time_ns
            self._head(at_ns)
            time = self._columns.time(at_ns, self._utc_offset_s)
            first, *others = self._incidents.lines(notice, time, self._utc_offset_s)
            self._put([first], "stall")
            self._put(others)
            if notice.news is News.BEGAN:  # a block of something that waits
                self._lines, self._reminded_ns = 0, at_ns

    def _print_due(self, time_ns: int) -> None:
        if self._folding is not None:
            self._put(self._folding.due(time_ns), "lost")
        if self._started_ns is None:
            self._print(self._accounts.due(time_ns))

    def _end_start(self, until_ns: int | None) -> None:
        """Print what waits already, once the first walk over all sockets is complete. None: the run has ended."""
        started_ns = self._started_ns
        if started_ns is None or (until_ns is not None and until_ns < started_ns + STARTING_NS):
            return
        self._started_ns = None
        already = dict(self._already)
        self._already.clear()
        if not already:
            return
        now_ns = max(stall.time_ns for stall in already.values())
        self._head(now_ns)
        accounts = [each for each in self._accounts.open() if each in already]
        self._list(accounts, now_ns)
        for account in accounts if len(accounts) <= MAX_BLOCKS or self._page.is_verbose else accounts[:1]:
            account.unprinted = 0
            self._block(account, account.newest, now_ns)

    def _list(self, accounts: Sequence[Account], now_ns: int) -> None:
        self._put(["Already waiting:"], "list")
        if len(accounts) > MAX_BLOCKS:
            for account in accounts[:MAX_LISTED]:
                account.unprinted = 0
                self._put(self._incidents.waiting(account, now_ns, self._utc_offset_s))
        left = accounts[MAX_LISTED:]
        if left:
            connections = plural(sum(len(each.open) for each in left), "connection")
            self._put([f"  and {connections} more: sudo {self._page.program} sockets --stuck"])

    def _block(self, account: Account, stall: Event, now_ns: int) -> None:
        time = self._columns.time(now_ns, self._utc_offset_s)
        first, *others = self._incidents.block(account, stall, time, self._utc_offset_s, "WAIT")
        self._put([first], "stall")
        self._put(others)
        self._lines, self._reminded_ns, account.printed_ns = 0, now_ns, now_ns
        account.goes_on = False  # the block says so

    def _remind(self, now_ns: int) -> None:
        """On a terminal, print the worst account again before its block scrolls off."""
        rows = self._page.rows
        if rows is None or self._lines < max(rows - MAX_BLOCK - 4, MAX_BLOCK):
            return
        if now_ns - self._reminded_ns < _REMIND_AFTER_NS:
            return
        if accounts := self._accounts.open():
            self._block(accounts[0], later_stall(accounts[0].newest, now_ns), now_ns)

    def _head(self, time_ns: int) -> None:
        """The date, the time zone and the names of the columns, above the first line of a day."""
        date = local_time(time_ns, self._utc_offset_s)[0]
        if date != self._date:
            self._date = date
            where = f", on {safe(self._other_host)}" if self._other_host else ""
            self._put([f"{date}, times in {_zone(self._utc_offset_s)}{where}", self._columns.heading()])

    def _put(self, lines: Sequence[str], event: str = "") -> None:
        for line in lines:
            text = in_plain(line) if self._plain else line
            if self._page.colour and event:
                text = click.style(text, **_COLOURS.get(event, {}))  # type: ignore[arg-type]
            self._stream.write(text + "\n")
            self.is_empty = False
        self._lines += len(lines)


def later_stall(stall: Event, now_ns: int) -> Event:
    """The stall at a later time, if it goes on: less time is left until the kernel gives up."""
    passed_ms = (now_ns - stall.time_ns) // 1_000_000
    if passed_ms <= 0:
        return stall
    known = {**stall.known(), "time_ns": now_ns}
    if stall.gives_up_in_ms is not None:
        window_ms = 0 if stall.gives_up_window_ms is None else stall.gives_up_window_ms
        left_ms = stall.gives_up_in_ms - passed_ms
        known["gives_up_in_ms"] = max(0, left_ms) if left_ms + window_ms >= 0 else None
        known["gives_up_window_ms"] = window_ms + min(0, left_ms)
    return Event.of(known)


def _zone(utc_offset_s: int) -> str:
    """`UTC`, `UTC+01:00`."""
    if not utc_offset_s:
        return "UTC"
    hours, minutes = divmod(abs(utc_offset_s) // 60, 60)
    return f"UTC{'-' if utc_offset_s < 0 else '+'}{hours:02d}:{minutes:02d}"


def _can_encode(stream: Stream, text: str) -> bool:
    try:
        text.encode(stream.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True

"""What `report --evidence` lists for the network team: for each connection, what this end sent and when.

All figures are those of the events, in UTC with milliseconds.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from dataclasses import field
from typing import NamedTuple

from tracer.analysis.incidents import began_ns
from tracer.analysis.outcomes import Outcome
from tracer.model.dataclass import dataclass
from tracer.model.events import OWNERS_NAMES, Event
from tracer.model.kinds import Kind
from tracer.model.times import format_time
from tracer.output.event_line import sent_again
from tracer.output.format import common_place, duration, endpoint, plural, process
from tracer.output.report_blocks import Facts, Inline, Item, Name, Paragraph, Section, Table, name_of
from tracer.output.report_incidents import counted, weightiest

MAX_CONNECTIONS = 50
"""Stalls that are listed: the longest, and of each verdict at least one."""
MAX_OPEN = 1024
"""Connections with signs that no stall has taken yet."""
MAX_FIRST, MAX_LAST = 24, 8
"""Signs of one connection that are listed: the first and the last."""
COMPACT_EVIDENCE = "Files that were recorded with --compact have no single retransmissions and probes."
_EARLIER_NS = 100_000_000
"""By this much a sign may precede the calculated time at which its stall began."""
_SIGNS = frozenset(
    {Kind.RETRANSMIT, Kind.KEEPALIVE, Kind.WINDOW_PROBE, Kind.UNSENT, Kind.FOUND, Kind.WAITING, Kind.RESET,
     Kind.ERROR, Kind.RESUME}
)  # fmt: skip
_FROM_TIMER = frozenset({Kind.RETRANSMIT, Kind.KEEPALIVE, Kind.WINDOW_PROBE, Kind.UNSENT})
_TEXT = 64


class _Sign(NamedTuple):
    """An event of a stalled connection."""

    time_ns: int
    ktime_ns: int
    what: str
    is_timer: bool  # the kernel counts it among the stall's retransmissions or probes
    silent_ms: int | None
    rto_ms: int | None
    unacked_bytes: int | None


@dataclass(slots=True)
class _Signs:
    """The first and the last signs of a connection."""

    first: list[_Sign] = field(default_factory=list)
    last: deque[_Sign] = field(default_factory=lambda: deque(maxlen=MAX_LAST))
    left_out: int = 0

    def add(self, sign: _Sign) -> None:
        if len(self.first) < MAX_FIRST:
            self.first.append(sign)
            return
        self.left_out += len(self.last) == MAX_LAST
        self.last.append(sign)


class _Entry(NamedTuple):
    host: str
    stall: Event
    signs: _Signs

    @property
    def weight(self) -> tuple[bool, int]:
        outcome = Outcome.of(self.stall.outcome)
        is_harmful = outcome is None or not outcome.is_harmless
        return is_harmful, 0 if self.stall.duration_ms is None else self.stall.duration_ms

    @property
    def verdict(self) -> str:
        return self.stall.verdict or "?"


class Evidence:
    """Collects the signs of stalls, in bounded memory."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, str], _Signs] = OrderedDict()  # by host and socket
        self._entries: list[_Entry] = []
        self._verdicts: Counter[str] = Counter()

    def take(self, event: Event, host: str) -> None:
        """Take an event."""
        if event.event not in _SIGNS or event.sock is None or event.kind == "idle":
            return
        key = (host, event.sock)
        self._open.setdefault(key, _Signs()).add(_sign_of(event))
        self._open.move_to_end(key)
        if len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)

    def end(self, stall: Event, host: str, verdict: str) -> None:
        """Take the end of a stall. verdict: its verdict, or the word for those that are not counted apart."""
        self._verdicts[verdict] += 1
        key = (host, stall.sock or "")
        signs = self._open.pop(key, None) or _Signs()
        since_ns = began_ns(stall) - _EARLIER_NS
        own, later = _Signs(left_out=signs.left_out), _Signs()
        for sign in (*signs.first, *signs.last):
            if sign.ktime_ns > stall.ktime_ns:
                later.add(sign)
            elif sign.time_ns >= since_ns:
                own.add(sign)
        if later.first:
            self._open[key] = later
        self._entries.append(_Entry(host, _slim(stall, verdict), own))
        self._limit()

    def merge(self, other: Evidence) -> None:
        """Include the stalls of another report, to which nothing is added any more."""
        self._entries += other._entries
        self._verdicts += other._verdicts
        self._limit()

    def _limit(self) -> None:
        if len(self._entries) > 2 * MAX_CONNECTIONS:
            self._entries = self._weightiest()

    def _weightiest(self) -> list[_Entry]:
        return weightiest(self._entries, MAX_CONNECTIONS, lambda entry: entry.weight, lambda entry: entry.verdict)

    def section(self, remark: str = "") -> Section:
        """The connections in the order of time, and how many are left out. remark: a sentence before them."""
        entries = sorted(self._weightiest(), key=lambda entry: began_ns(entry.stall))
        left_out = self._verdicts - Counter(entry.verdict for entry in entries)
        blocks: list[Paragraph | Item] = [Paragraph(" ".join(filter(None, ["All times are in UTC.", remark])))]
        blocks += [_item(entry) for entry in entries]
        if left_out:
            number = plural(sum(left_out.values()), "stall")
            blocks.append(Paragraph((f"Not listed: {number} of less weight (", *counted(left_out), ").")))
        return Section("Evidence for the network team", blocks)


def _slim(stall: Event, verdict: str) -> Event:
    names = (
        "time_ns", "ktime_ns", "event", "laddr", "lport", "raddr", "rport", "netns", "pid", "since", "silent_ms",
        "idle_ms", "retransmits", "outcome", "duration_ms", "gives_up_at", "unacked_bytes", "unsent_bytes",
        "one_way", "error", "soft_error", "send_error", "srtt_ms", "snd_wnd",
    )  # fmt: skip
    known = stall.known()
    fields = {name: known[name] for name in names if known.get(name) is not None}
    owner = {name: known[name][:_TEXT] for name in ("comm", "exe", *OWNERS_NAMES) if known.get(name) is not None}
    return Event.of({**fields, **owner, "verdict": verdict})


def _sign_of(event: Event) -> _Sign:
    return _Sign(
        event.time_ns,
        event.ktime_ns,
        _what(event)[:_TEXT],
        event.event in _FROM_TIMER and event.kind not in ("tlp", "fast"),
        event.silent_ms,
        event.rto_ms,
        event.unacked_bytes,
    )


def _what(event: Event) -> str:
    """`tlp`, `rto 3`, `keepalive 2`, `window-probe 4`, `rto 9 (found)`, `RST received`, `ETIMEDOUT`."""
    number = f" {event.attempt}" if event.attempt else ""
    if event.event == Kind.RETRANSMIT:
        return f"{event.kind or 'retransmit'}{number}"
    if event.event == Kind.FOUND:
        return f"{sent_again(event) if event.kind == 'retransmit' else event.kind}{number} (found)"
    if event.event == Kind.RESET:
        return f"RST {event.direction or ''}".rstrip()
    if event.event == Kind.ERROR:
        return event.error or "error"
    if event.event == Kind.RESUME:
        return f"received ({event.cause})" if event.cause else "received"
    return f"no reply{number}" if event.event == Kind.WAITING else f"{event.event}{number}"


def _item(entry: _Entry) -> Item:
    stall = entry.stall
    ends = Name(endpoint(stall.laddr, stall.lport)), " → ", Name(endpoint(stall.raddr, stall.rport))
    blocks: list[Facts | Table | Paragraph] = [Facts(list(_facts(entry)))]
    signs = [*entry.signs.first, *entry.signs.last]
    if signs:
        blocks.append(Table(["TIME", "KIND", "SILENT", "RTO", "UNACKED"], [_row(sign) for sign in signs]))
    if entry.signs.left_out:
        left_out = plural(entry.signs.left_out, "event")
        blocks.append(Paragraph(f"Between the first {MAX_FIRST} and the last {MAX_LAST}, {left_out} are left out."))
    missing = (stall.retransmits or 0) - sum(sign.is_timer for sign in signs) - entry.signs.left_out
    if missing > 0:
        blocks.append(Paragraph(f"The kernel counted {missing:,} more, for which this report has no event."))
    return Item((*ends, f": {stall.verdict}"), blocks)


def _facts(entry: _Entry) -> Iterator[tuple[str, list[Inline]]]:
    stall = entry.stall
    netns = "" if stall.netns is None else f", network namespace {stall.netns}"
    yield "Host", [(name_of(entry.host), netns)]
    yield "Owner", [(name_of(common_place([stall]) + process(stall)),)]
    yield "Last received", [_utc(last_ns) if (last_ns := last_received_ns(entry)) is not None else "unknown"]
    silent = "" if stall.idle_ms is None else f" after a silence of {exact(stall.idle_ms)}"
    yield "First sent", [f"{_utc(began_ns(stall))}{silent}"]
    stuck = [
        f"{count:,} B {word}"
        for count, word in ((stall.unacked_bytes, "unacknowledged"), (stall.unsent_bytes, "not sent yet"))
        if count is not None
    ]
    if stuck:
        yield "Bytes", [", ".join(stuck)]
    if stall.retransmits is not None:
        yield "Counted", [f"{stall.retransmits:,} retransmissions or probes by timer, as the kernel counts"]
    yield "Ended", list(_end(stall))


def last_received_ns(entry: _Entry) -> int | None:
    """When the last segment from the peer arrived, wall clock, to one jiffy; None where it is not known."""
    known = [sign for sign in (*entry.signs.first, *entry.signs.last) if sign.is_timer or sign.what == "tlp"]
    known = [sign for sign in known if sign.silent_ms is not None]
    if known:
        # Where the peer answers with a closed window, or acknowledges nothing, it is not silent.
        sign = known[-1 if entry.stall.one_way or entry.stall.snd_wnd == 0 else 0]
        return sign.time_ns - (sign.silent_ms or 0) * 1_000_000
    if entry.stall.idle_ms is not None:
        return began_ns(entry.stall) - entry.stall.idle_ms * 1_000_000
    return None


def _end(stall: Event) -> Iterator[Inline]:
    if stall.outcome == Outcome.ONGOING:
        until = f". The kernel gives up at {_until(stall.gives_up_at)}" if stall.gives_up_at else ""
        yield f"not by {_utc(stall.time_ns)}, where this report ends{until}"
        return
    error = (" (", name_of(stall.error), ")") if stall.error is not None else ()
    lasted = "" if stall.duration_ms is None else f", {exact(stall.duration_ms)} after it began"
    yield (f"{_utc(stall.time_ns)}: ", name_of(stall.outcome or "?"), *error, lasted)


def _until(gives_up_at: str) -> str:
    return f"{name_of(gives_up_at[:23], 23)}Z"


def _row(sign: _Sign) -> list[Inline]:
    return [
        _utc(sign.time_ns),
        name_of(sign.what, 24),
        "-" if sign.silent_ms is None else exact(sign.silent_ms),
        "-" if sign.rto_ms is None else duration(sign.rto_ms),
        "-" if sign.unacked_bytes is None else f"{sign.unacked_bytes:,} B",
    ]


def _utc(time_ns: int) -> str:
    """RFC 3339 with milliseconds."""
    return f"{format_time(time_ns)[:23]}Z"


def exact(ms: int) -> str:
    """A duration to the millisecond: `0.204s`, `1m20.480s`, `1h01m00.204s`."""
    seconds, rest = divmod(ms, 1000)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    last = f"{second:02d}.{rest:03d}s" if minutes else f"{second}.{rest:03d}s"
    return f"{hours}h{minute:02d}m{last}" if hours else f"{minute}m{last}" if minutes else last

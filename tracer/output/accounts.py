"""The account of each incident in live output: what was printed about it, and what is due.

The first stall of an incident is printed at once. Further ones are counted, and reported once a second of the events'
clock. So 200 connections of a pool make one block and a line or two, and the first line is never late.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import field
from enum import Enum, auto
from typing import NamedTuple

from tracer.analysis.incidents import MAX_INCIDENTS, Incident, IncidentKey, Range, began_ns, key_of
from tracer.analysis.outcomes import WITHOUT_EVIDENCE, Outcome
from tracer.analysis.timeouts import MAX_MS
from tracer.analysis.verdicts import Verdict
from tracer.model.dataclass import dataclass
from tracer.model.events import Event

MAX_OPEN = 32768
"""Open stalls that are remembered. Of more, the oldest are forgotten, and their ends have no line."""
MAX_WITH_LINES = 3
"""Open stalls of an account up to which the retransmissions of each have lines of their own."""
SECOND_NS = 1_000_000_000
SETTLED_NS = 5 * SECOND_NS
"""News that only repeats what was printed within this time is not printed."""
EXACT_NS = 2 * SECOND_NS
"""A time of giving up that was printed with a window up to this is not printed again when it is exact."""


class Open(NamedTuple):
    """An open stall: when it began and when the kernel gives up (wall clock), and its retransmissions."""

    since_ns: int
    earliest_ns: int | None
    latest_ns: int | None
    retransmits: int
    sock: str | None

    @property
    def is_exact(self) -> bool:
        """Whether the time of giving up is known to EXACT_NS."""
        earliest_ns, latest_ns = self.earliest_ns, self.latest_ns
        return earliest_ns is not None and latest_ns is not None and latest_ns - earliest_ns <= EXACT_NS


@dataclass(slots=True, eq=False)
class Account:
    """What is known and printed about an incident.

    newest: its newest stall event. open: its open stalls by id. ended: outcomes since the last line about ends.
    lasted_ms: of those. unprinted: stalls that began since the last line. printed_ns: time of the last line.
    """

    incident: Incident
    newest: Event
    open: dict[str, Open] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    lasted_ms: Range = field(default_factory=Range)
    unprinted: int = 0
    goes_on: bool = False
    printed_ns: int = 0

    @property
    def verdict(self) -> str:
        """The name of the verdict."""
        return self.incident.key.verdict

    @property
    def since_ns(self) -> Range:
        """When the open stalls began."""
        return _range(each.since_ns for each in self.open.values())

    @property
    def gives_up_ns(self) -> Range:
        """When the kernel gives up the open stalls: the earliest and the latest time."""
        return _range(time for each in self.open.values() for time in (each.earliest_ns, each.latest_ns))


class News(Enum):
    """What there is to print about an account."""

    BEGAN = auto()
    """Its first stall."""
    MORE = auto()
    """Further stalls."""
    GOES_ON = auto()
    REVOKED = auto()
    """A stall that was presumed to be answered goes on."""
    ENDED = auto()
    FOUND_ENDED = auto()
    """A stall that is over as soon as it is seen: a reset."""


class Notice(NamedTuple):
    """Something to print. stall: the event that it is about, where it is about one."""

    news: News
    account: Account
    stall: Event | None = None


class Accounts:
    """Takes the events of stalls of one host, and returns what to print.

    shows_orphans: also print stalls that begin when no process holds the socket any more, so that nobody waits.
    """

    def __init__(self, host: str = "", *, shows_orphans: bool = False) -> None:
        self._host = host
        self._shows_orphans = shows_orphans
        self._by_key: OrderedDict[IncidentKey, Account] = OrderedDict()  # those that a stall may still join
        self._active: dict[Account, None] = {}  # with open stalls, or with something due
        self._by_id: OrderedDict[str, Account] = OrderedDict()
        self._by_sock: dict[str | None, Account] = {}  # of the open stalls
        self._revocable: OrderedDict[str, Account] = OrderedDict()  # of stalls that ended without evidence, by id
        self._second = 0

    def take(self, stall: Event) -> list[Notice]:
        """What to print at once about the begin, update or end of a stall."""
        identity = stall.id or ""
        account = self._by_id.get(identity)
        if stall.phase == "end":
            return self._ended(account, identity, stall)
        if self.is_quiet(stall):
            return []
        if account is None and stall.revoked:
            account = self._revocable.pop(identity, None)
        if account is None or account.verdict != stall.verdict:
            if account is not None:
                self._close(account, identity)
                returned = self._returned(identity, stall)
                if returned is not None:
                    return [returned]
            return self._began(identity, stall)
        return self._goes_on(account, identity, stall)

    def is_quiet(self, stall: Event) -> bool:
        """Whether nothing is printed: it may be chance still, is harmless, or nobody waits."""
        if stall.orphan and not self._shows_orphans and (stall.id or "") not in self._by_id:
            return True
        verdict = Verdict.of(stall.verdict)
        if verdict is None:
            return False
        outcome = Outcome.of(stall.outcome)
        retransmits = 0 if stall.retransmits is None else stall.retransmits
        return verdict.is_quiet or (retransmits < verdict.shown_from and (outcome is None or not outcome.is_death))

    def sums_up(self, sock: str | None) -> bool:
        """Whether the socket is in an account with more open stalls than have lines of their own."""
        account = self._by_sock.get(sock)
        return account is not None and len(account.open) > MAX_WITH_LINES

    def due(self, time_ns: int) -> list[Notice]:
        """What to print about the second before time_ns (wall clock), once it is over."""
        second = time_ns // SECOND_NS
        if second <= self._second:
            return []
        self._second = second
        return self.rest()

    def rest(self) -> list[Notice]:
        """What has been counted and not printed."""
        notices: list[Notice] = []
        for account in list(self._active):
            if account.unprinted and len(account.open) > 1:
                notices.append(Notice(News.MORE, account))
            elif account.goes_on:
                notices.append(Notice(News.GOES_ON, account))
            account.unprinted, account.goes_on = 0, False
            if account.ended:
                notices.append(Notice(News.ENDED, account))
            if not account.open:
                self._active.pop(account)
        return notices

    @property
    def has_open(self) -> bool:
        """Whether a stall is open."""
        return bool(self._by_id)

    def open(self) -> list[Account]:
        """The accounts with open stalls: first those that the kernel will end, then the largest."""
        return sorted((each for each in self._active if each.open), key=_worst_first)

    def _began(self, identity: str, stall: Event) -> list[Notice]:
        key = key_of(stall, self._host)
        account = self._account_of(stall)
        is_new = account is None
        if account is None:
            account = self._by_key[key] = Account(Incident(key, stall), stall)
            if len(self._by_key) > MAX_INCIDENTS:
                self._by_key.popitem(last=False)
        self._by_key.move_to_end(key)
        self._active[account] = None
        account.incident.add(stall)
        account.newest = stall
        self._remember(account, identity, stall)
        if is_new:
            account.printed_ns = stall.time_ns
            return [Notice(News.BEGAN, account, stall)]
        account.unprinted += 1
        return []

    def _returned(self, identity: str, stall: Event) -> Notice | None:
        """What to print where a stall has a former verdict again; None where it did not have it."""
        account = self._account_of(stall)
        if account is None or account.open or account.incident.count > 1 or account.incident.example.id != identity:
            return None
        self._active[account] = None
        account.newest, account.printed_ns = stall, stall.time_ns
        self._remember(account, identity, stall)
        return Notice(News.GOES_ON, account, stall)

    def _account_of(self, stall: Event) -> Account | None:
        """The account that the stall belongs to, if there is one yet."""
        account = self._by_key.get(key_of(stall, self._host))
        return account if account is not None and account.incident.accepts(stall) else None

    def _goes_on(self, account: Account, identity: str, stall: Event) -> list[Notice]:
        was_exact = identity in account.open and account.open[identity].is_exact
        self._remember(account, identity, stall)
        self._active[account] = None
        account.newest = stall
        is_news = stall.revoked or (account.open[identity].is_exact and not was_exact)
        if not is_news and stall.time_ns - account.printed_ns < SETTLED_NS:
            return []
        account.printed_ns = stall.time_ns
        if len(account.open) > 1:
            account.goes_on = True
            return []
        return [Notice(News.REVOKED if stall.revoked else News.GOES_ON, account, stall)]

    def _ended(self, account: Account | None, identity: str, stall: Event) -> list[Notice]:
        if account is None:
            if self.is_quiet(stall):
                return []
            began = self._began(identity, stall)
            account = self._by_id[identity]
            account.unprinted -= not began
            notices = [Notice(News.FOUND_ENDED, account, stall)] if began else []
        else:
            stall = _of_what_was_reported(stall, account.open[identity])
            account.newest = stall
            is_alone = account.incident.count == 1
            notices = [Notice(News.ENDED, account, stall)] if is_alone else []
        self._close(account, identity)
        if stall.outcome in WITHOUT_EVIDENCE:
            self._revocable[identity] = account
            if len(self._revocable) > MAX_OPEN:
                self._revocable.popitem(last=False)
        if not notices:
            account.ended[stall.outcome or "?"] += 1
            account.lasted_ms.add(stall.duration_ms)
        elif not account.open:
            self._active.pop(account, None)
        return notices

    def _remember(self, account: Account, identity: str, stall: Event) -> None:
        account.open[identity] = _open(stall)
        self._by_sock[stall.sock] = self._by_id[identity] = account
        self._by_id.move_to_end(identity)
        if len(self._by_id) > MAX_OPEN:
            oldest, of = next(iter(self._by_id.items()))
            self._close(of, oldest)

    def _close(self, account: Account, identity: str) -> None:
        closed = account.open.pop(identity, None)
        self._by_id.pop(identity, None)
        if closed is not None:
            self._by_sock.pop(closed.sock, None)


def _of_what_was_reported(end: Event, reported: Open) -> Event:
    """The end without a duration, if that is the duration of a later loss: what was reported was answered before."""
    if end.outcome != Outcome.RECOVERED or began_ns(end) - reported.since_ns < SECOND_NS:
        return end
    return Event.of({name: value for name, value in end.known().items() if name != "duration_ms"})


def _open(stall: Event) -> Open:
    earliest_ns = latest_ns = None
    window_ms = 0 if stall.gives_up_window_ms is None else stall.gives_up_window_ms
    # A recording may hold any number.
    if stall.gives_up_in_ms is not None and 0 <= stall.gives_up_in_ms + min(0, window_ms) <= MAX_MS - window_ms:
        earliest_ns = stall.time_ns + stall.gives_up_in_ms * 1_000_000
        latest_ns = earliest_ns + window_ms * 1_000_000
    retransmits = 0 if stall.retransmits is None else stall.retransmits
    return Open(began_ns(stall), earliest_ns, latest_ns, retransmits, stall.sock)


def _range(numbers: Iterator[int | None]) -> Range:
    found = Range()
    for number in numbers:
        found.add(number)
    return found


def _worst_first(account: Account) -> tuple[bool, int, int]:
    since_ns = account.since_ns.least
    return account.gives_up_ns.least is None, -len(account.open), 0 if since_ns is None else since_ns

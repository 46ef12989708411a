"""The sentences about the other end of a stalled connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tracer.analysis.clock_offsets import TOLERANCE_NS
from tracer.analysis.connection_ends import MS, Closing
from tracer.analysis.two_ends import Finding, OtherEnd, Stall
from tracer.analysis.verdicts import Verdict
from tracer.output.format import duration, endpoint, local_time, plural, safe
from tracer.output.report_blocks import Inline, Item, Name, Paragraph, Section, name_of
from tracer.output.report_two_ends import Group, GroupKey, TwoEnds

MAX_GROUPS = 20
"""Groups of similar stalls that are listed."""
_NOTE = "Times are those of each host."
_HOW = {
    "closed": "its process closed it",
    "aborted": "it was aborted with a reset",
    "reset": "a reset arrived",
    "": "it was closed",
}


def two_ends_section(two_ends: TwoEnds, utc_offset_s: int) -> Section | None:
    """What the other ends show, by host and verdict; None where they show nothing."""
    groups = list(two_ends.groups())
    if not groups:
        return None
    blocks: list[Item | Paragraph] = [_item(*each, utc_offset_s) for each in groups[:MAX_GROUPS]]
    if len(groups) > MAX_GROUPS:
        blocks.append(Paragraph(f"… and {plural(len(groups) - MAX_GROUPS, 'other group')}; --json has them all."))
    return Section("Both ends", [*blocks, Paragraph(_NOTE)])


def _item(key: GroupKey, group: Group, utc_offset_s: int) -> Item:
    stall = group.stall
    local, remote = endpoint(stall.ends.laddr, stall.ends.lport), endpoint(stall.ends.raddr, stall.ends.rport)
    of = " of " if group.count == 1 else ", the longest of "
    title = (
        name_of(key.verdict),
        f": {plural(group.count, 'stall')}{of}",
        *_process(stall.comm, stall.pid),
        *(" ",),
        Name(local),
        " → ",
        Name(remote),
        " on ",
        name_of(key.host),
    )
    sentences = [
        *_clocks(stall, group.other),
        _SENTENCES[group.other.finding](stall, group.other, utc_offset_s),
        *_further(stall, group.other, utc_offset_s),
        *_conclusion(stall, group.other),
    ]
    return Item(title, [Paragraph(sentence) for sentence in sentences])


def _clocks(stall: Stall, other: OtherEnd) -> Sequence[Inline]:
    """The difference of the clocks, unless it is small."""
    if other.ahead_ns is None:
        hosts = (name_of(stall.host), " and ", name_of(other.host))
        return (("The clocks of ", *hosts, " could not be compared. If they differ by less than a second:"),)
    if abs(other.ahead_ns) < TOLERANCE_NS:
        return ()
    return (clock_difference(stall.host, other.host, other.ahead_ns),)


def clock_difference(host: str, other_host: str, ahead_ns: int) -> Inline:
    """The sentence about two clocks that differ. ahead_ns: how far that of the other host is ahead."""
    differs = f"{duration(abs(ahead_ns) / MS)} {'ahead of' if ahead_ns > 0 else 'behind'}"
    return "The clock of ", name_of(other_host), f" is {differs} that of ", name_of(host), "."


def clock_differences(two_ends: TwoEnds) -> list[Inline]:
    """A sentence for each pair of hosts with a stall between them and clocks that differ."""
    differences: dict[frozenset[str], Inline] = {}
    for stall, other in two_ends.found:
        ahead_ns = other.ahead_ns or 0
        if abs(ahead_ns) >= TOLERANCE_NS and len(differences) < MAX_GROUPS:
            hosts = frozenset((stall.host, other.host))
            differences.setdefault(hosts, clock_difference(stall.host, other.host, ahead_ns))
    return list(differences.values())


def known_meaning(verdict: str, stalls: int, two_ends: TwoEnds) -> str | None:
    """The meaning of a verdict, where both ends of all its stalls are known to show the same; None otherwise."""
    groups = [(key, group) for key, group in two_ends.groups() if key.verdict == verdict]
    if sum(group.count for key, group in groups if key.has_clocks) < stalls or not groups:
        return None
    conclusions = {"".join(_conclusion(group.stall, group.other)) for _, group in groups}
    return conclusions.pop() or None if len(conclusions) == 1 else None


def _conclusion(stall: Stall, other: OtherEnd) -> Sequence[str]:
    """What is known with both ends, where one end can only guess, or would be if the clocks could be compared."""
    conclusion = _concluded(stall, other)
    if not conclusion:
        return ()
    known = "Known from both ends: " if other.ahead_ns is not None else "Then "
    return (f"{known}{conclusion}",)


def _concluded(stall: Stall, other: OtherEnd) -> str:
    if other.finding is Finding.NOTHING_ARRIVED:
        if other.others_passed and stall.verdict in (Verdict.IDLE_DROP, Verdict.KEEPALIVE_FAILED):
            return (
                "a firewall or NAT on the path forgot this session. The peer is not dead, and other connections "
                "between the two hosts worked meanwhile."
            )
        ways = "both ways" if other.lost_back else "on the way to the peer"
        return f"packets of this connection are lost {ways}. The peer is not dead."
    if other.finding is Finding.ARRIVED:
        return "the peer is not dead, and its packets are lost on the way back."
    if other.finding is Finding.OPEN:
        return "the reset did not come from the peer. A device on the path sent it."
    return ""


def _nothing_arrived(stall: Stall, other: OtherEnd, utc_offset_s: int) -> Inline:
    last = f" The last segment before came at {_clock(other.heard_ns, utc_offset_s)}." if other.heard_ns else ""
    since = _clock(stall.on_clock(other.ahead_ns or 0).since_ns, utc_offset_s)
    return (
        name_of(other.host),
        f" received nothing of what was sent from {since} on, up to {_clock(other.until_ns, utc_offset_s)}, and its "
        "end",
        *_held_by(other),
        f" was open.{last}",
    )


def _arrived(stall: Stall, other: OtherEnd, utc_offset_s: int) -> Inline:
    return (
        name_of(other.host),
        f" received a segment at {_clock(other.heard_ns, utc_offset_s)}, while ",
        name_of(stall.host),
        " waited. A kernel answers at once, but no answer arrived.",
    )


def _closed(stall: Stall, other: OtherEnd, utc_offset_s: int) -> Inline:
    closing = other.closing or Closing(0, "")
    if closing.how == "no-socket":
        when = _clock(closing.time_ns, utc_offset_s)
        return name_of(other.host), f" had no such connection any more: it answered with a reset at {when}."
    how = _HOW.get(closing.how, f"its kernel gave it up with {safe(closing.how)}")
    if closing.how == "ended":
        how = "tcpwatch end ended it"
    by = (", by ", name_of(closing.by)) if closing.by else ()
    when = _clock(closing.time_ns, utc_offset_s)
    since_ns = stall.on_clock(other.ahead_ns or 0).since_ns
    before = ", before this stall began" if closing.time_ns < since_ns else ""
    return "On ", name_of(other.host), *_held_by(other), f", the connection ended at {when}{before}: {how}", *by, "."


def _open(stall: Stall, other: OtherEnd, utc_offset_s: int) -> Inline:
    when = _clock(other.until_ns, utc_offset_s)
    return "The end on ", name_of(other.host), *_held_by(other), f" was still open at {when}: it sent no reset."


def _not_read(stall: Stall, other: OtherEnd, utc_offset_s: int) -> Inline:
    return (*_process(other.comm, other.pid), " on ", name_of(other.host), " did not read what had arrived.")


def _no_reply(stall: Stall, other: OtherEnd, utc_offset_s: int) -> Inline:
    return (
        *_process(other.comm, other.pid),
        " on ",
        name_of(other.host),
        " has the request. No reply that its kernel sent was lost.",
    )


def _reply_lost(stall: Stall, other: OtherEnd, utc_offset_s: int) -> Inline:
    return name_of(other.host), " sent a reply, and got no acknowledgement: the reply was lost on the way back."


def _not_recorded(stall: Stall, other: OtherEnd, utc_offset_s: int) -> Inline:
    when = f"ended at {_clock(other.until_ns, utc_offset_s)}" if other.until_ns else "began later"
    return (
        "The end on ",
        name_of(other.host),
        *_held_by(other),
        f" was not recorded at that time: that recording {when}.",
    )


_SENTENCES: dict[Finding, Callable[[Stall, OtherEnd, int], Inline]] = {
    Finding.NOTHING_ARRIVED: _nothing_arrived,
    Finding.ARRIVED: _arrived,
    Finding.CLOSED: _closed,
    Finding.OPEN: _open,
    Finding.NOT_READ: _not_read,
    Finding.NO_REPLY: _no_reply,
    Finding.REPLY_LOST: _reply_lost,
    Finding.NOT_RECORDED: _not_recorded,
}


def _further(stall: Stall, other: OtherEnd, utc_offset_s: int) -> Sequence[Inline]:
    if not other.waited_ns or other.finding in (Finding.REPLY_LOST, Finding.NOT_RECORDED):
        return ()
    lost = f" What it sent did not arrive at {safe(stall.host)}." if other.lost_back else ""
    return (
        (name_of(other.host), f" waited for an answer, too, since {_clock(other.waited_ns, utc_offset_s)}.{lost}"),
    )


def _held_by(other: OtherEnd) -> tuple[str, ...]:
    return (" (", *_process(other.comm, other.pid), ")") if other.comm else ()


def _process(comm: str, pid: int) -> tuple[str, ...]:
    return (name_of(f"{comm or '?'}[{pid}]"),) if pid else ("a process",)


def _clock(time_ns: int, utc_offset_s: int) -> str:
    return local_time(max(0, time_ns), utc_offset_s)[1][:8]

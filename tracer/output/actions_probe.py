"""What probes brought, as text and as JSON lines."""

from __future__ import annotations

import math
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tracer.model.actions import Answer, Connected, Probed, service_of
from tracer.model.json_members import encode
from tracer.model.times import format_time
from tracer.output.actions import action_as_json, connection, fitting, service
from tracer.output.format import duration, endpoint, owner_of_all, plural, program, safe
from tracer.output.table import table

_EXACT_MS = 10
_SYN_TIMEOUT_MS = 1000
"""When the kernel repeats a SYN (TCP_TIMEOUT_INIT, include/net/tcp.h). It lost one if connecting takes longer."""


def probed_as_text(probed: Probed, width: float = math.inf) -> str:
    """The result, the connection, and the round trip or why there is none.

    One line; two on a terminal where that is wider than width, columns.
    """
    who, what = f"{probed.answer.value:<11}  {connection(probed.socket)}", ", ".join(_details(probed))
    if len(who) + len(what) > width and probed.answer is Answer.NO_ANSWER:
        what = _silence(probed)  # the summary has the probes
    return "".join(f"{line}\n" for line in (fitting(who, what, width) if what else [who]))


def _details(probed: Probed) -> Iterator[str]:
    if probed.rtt_ms is not None:
        yield round_trip(probed.rtt_ms)
    if probed.detail:
        yield safe(probed.detail)
    if probed.answer is not Answer.ALIVE and (silence := _silence(probed)):
        yield silence


def _silence(probed: Probed) -> str:
    silent_ms = probed.socket.silent_ms
    return "" if silent_ms is None else f"silent for {duration(silent_ms)}"


def probed_as_json(probed: Probed) -> str:
    """A line: the fields of the socket, `action`, `result`, and `rtt_ms` and `detail` where they are known."""
    rtt_ms = None if probed.rtt_ms is None else round(probed.rtt_ms, 3)
    return action_as_json(probed.socket, "probe", probed.answer.value, probed.detail, rtt_ms=rtt_ms)


def round_trip(ms: float) -> str:
    """A round trip: `0.12ms` below ten milliseconds, then as all durations."""
    return f"{ms:.2f}ms" if ms < _EXACT_MS else duration(ms)


def by_service(results: Sequence[Probed]) -> str:
    """A table of the results, with a row for each program and service; those with dead connections come first."""
    groups: dict[tuple[str, str], list[Probed]] = {}
    for probed in results:
        groups.setdefault((program(probed.socket), service(probed.socket)), []).append(probed)
    rows = [
        (Counter(each.answer for each in group), (owner_of_all([each.socket for each in group]), where), group)
        for (_, where), group in groups.items()
    ]
    rows.sort(key=lambda row: (-row[0][Answer.NO_ANSWER] - row[0][Answer.RESET], -len(row[2])))
    used = [answer for answer in Answer if any(counts[answer] for counts, _, _ in rows)]
    return table(
        ["OWNER", "SERVICE", *(answer.name.replace("_", "-") for answer in used), "ROUND TRIP"],
        [[*names, *(f"{counts[answer]:,}" for answer in used), _round_trips(group)] for counts, names, group in rows],
    )


def _round_trips(group: Iterable[Probed]) -> str:
    known = sorted(each.rtt_ms for each in group if each.rtt_ms is not None)
    if not known:
        return "-"
    least, most = round_trip(known[0]), round_trip(known[-1])
    return least if least == most else f"{least} to {most}"


_VERBS = (
    (Answer.ALIVE, "is alive", "are alive"),
    (Answer.NO_ANSWER, "does not answer", "do not answer"),
    (Answer.RESET, "was reset", "were reset"),
    (Answer.BUSY, "is busy", "are busy"),
    (Answer.UNREACHABLE, "could not be probed", "could not be probed"),
)


def probed_summary(results: Sequence[Probed]) -> str:
    """The numbers, for stderr: `140 of 200 connections are alive, 60 do not answer`."""
    counts = Counter(each.answer for each in results)
    parts: list[str] = []
    for answer, one, more in _VERBS:
        if count := counts[answer]:
            parts.append(f"{_subject(count, len(results), is_first=not parts)} {one if count == 1 else more}")
            if answer is Answer.NO_ANSWER:
                parts[-1] += _probes(results)
    return ", ".join(parts)


def _probes(results: Sequence[Probed]) -> str:
    """` (3 probes in 3.0s)`, if that is true of each dead connection."""
    details = {each.detail for each in results if each.answer is Answer.NO_ANSWER}
    return f" ({safe(details.pop())})" if len(details) == 1 and all(details) else ""


def _subject(count: int, of: int, *, is_first: bool) -> str:
    if not is_first:
        return f"{count:,}"
    return plural(count, "connection") if count == of else f"{count:,} of {plural(of, 'connection')}"


def about_answers(results: Sequence[Probed]) -> Iterator[str]:
    """What the probes themselves changed, for stderr."""
    counts = Counter(each.answer for each in results)
    if counts[Answer.ALIVE]:
        yield "an answered probe also refreshed the session in every firewall and NAT on the path"
    if counts[Answer.NO_ANSWER] and (late := sum(map(_is_late, results))):
        yield (
            f"{plural(late, 'connection')} answered only a later probe, so packets may be lost: probe those that do "
            "not answer again"
        )
    if counts[Answer.RESET]:
        yield "a reset ended the connection: its process gets ECONNRESET, as it would have from its next query"


_BY_OTHERS = frozenset({"ETIMEDOUT", "ECONNREFUSED", "ECONNRESET", "EHOSTUNREACH"})
"""Errors that a new connection gets from the network or the peer, or for lack of an answer."""
_LACKS = ": this host has no free port, or no longer the local address or its network namespace"
_LOCAL = {
    "EADDRNOTAVAIL": _LACKS,
    "ENOENT": _LACKS,
    "EPERM": ": a firewall of this host refuses, or entering the network namespace, which needs CAP_SYS_ADMIN",
}
"""What follows from errors of this host, whatever open connections do."""


def _is_late(probed: Probed) -> bool:
    """Whether a probe before the one that was answered may have been lost."""
    return probed.answer is Answer.ALIVE and probed.probes > 1


def connected_as_text(connected: Connected, results: Sequence[Probed], width: float = math.inf) -> str:
    """What a new connection to a service says about the open ones. width: of a terminal, columns."""
    sentence = _about_new(connected, results)
    if len(sentence) > width:
        sentence = textwrap.fill(
            sentence, int(width), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    return f"{sentence}\n"


def _about_new(connected: Connected, results: Sequence[Probed]) -> str:
    of_service = [each for each in results if service_of(each.socket) == connected.service]
    counts = Counter(each.answer for each in of_service)
    where = endpoint(connected.service.address, connected.service.port)
    dead = counts[Answer.NO_ANSWER]
    if connected.error is not None:
        is_lossy = any(map(_is_late, of_service))
        return f"a new connection to {where} fails ({connected.error}){_failed(connected.error, counts, is_lossy)}"
    took_ms = connected.took_ms or 0
    opens = f"a new connection to {where} opens ({round_trip(took_ms)})"
    if not dead:
        return opens
    which = "the one that does not answer" if dead == 1 else f"the {dead:,} that do not answer"
    if took_ms >= _SYN_TIMEOUT_MS or any(map(_is_late, of_service)):
        again = f"probe {'it' if dead == 1 else 'them'} again"
        return f"{opens}, so host and path work, but packets may be lost: {which} may be alive, {again}"
    sessions = "session" if dead == 1 else "sessions"
    return f"{opens}, so host and path work: the path or the peer forgot the {sessions} of {which}"


def _failed(error: str, counts: Mapping[Answer, int], is_lossy: bool) -> str:
    if error in _LOCAL:
        return _LOCAL[error]
    if counts[Answer.ALIVE]:
        if error == "ETIMEDOUT" and is_lossy:
            return ", while open ones are answered, some only at a later probe: packets may be lost, so probe again"
        answered = ", while open ones are answered"
        refused = ": the service accepts no new ones, or a firewall lets none pass"
        return f"{answered}{refused}" if error in _BY_OTHERS else answered
    if error == "ECONNREFUSED":
        return ": nothing listens there, or a firewall refuses"
    return ", too: the host or the path is down" if counts[Answer.NO_ANSWER] else ""


def connected_as_json(connected: Connected) -> str:
    """A line with `action` `connect`, the service, and `result` `connected` or `failed`."""
    known: dict[str, object] = {
        "time": format_time(time.time_ns()),
        "raddr": connected.service.address,
        "rport": connected.service.port,
        "netns": connected.service.netns,
        "action": "connect",
        "result": "failed" if connected.error else "connected",
    }
    if connected.error is not None:
        known["error"] = connected.error
    if connected.took_ms is not None:
        known["rtt_ms"] = round(connected.took_ms, 3)
    return encode(known) + "\n"

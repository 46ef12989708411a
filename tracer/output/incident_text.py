"""What is printed about an incident: a block when it begins, a line when it grows, goes on or ends.

A block has at most MAX_BLOCK lines, so that it fits a small terminal beside other lines: what happened, until when,
and a command each to check, release and cure.
"""

from __future__ import annotations

import textwrap

from tracer.analysis.advice.commands import on_host, place_of, split
from tracer.analysis.advice.steps import Step
from tracer.analysis.idle_timeouts import service_of
from tracer.analysis.incidents import MAX_PIDS, Range
from tracer.analysis.outcomes import Outcome
from tracer.analysis.verdicts import Subject, Verdict
from tracer.model.events import Event
from tracer.output.accounts import Account, News, Notice
from tracer.output.format import common_place, duration, endpoint, local_time, owner, plural, process, safe, short_id
from tracer.output.page import Page
from tracer.output.stall_sentences import how_it_ended, what_happened, what_it_means, when_it_ends
from tracer.output.stall_text import wrapped

MAX_BLOCK = 8
MAX_COMMAND = 300
"""Characters of a command line."""
_INDENT = "    "
_LABEL = 9
_NOT_LATER = 2000
"""Milliseconds between two times of giving up that are printed as one."""


class IncidentText:
    """Formats notices. Its lines fit the page, except commands, which a person copies."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._width = page.width if page.columns is None else min(page.width, page.columns)
        self.other_host = ""
        """Where the events were recorded, if that is not this host."""

    def lines(self, notice: Notice, time: str, utc_offset_s: int) -> list[str]:
        """The lines of a notice. time: the time of day, as other lines have it."""
        account, stall = notice.account, notice.stall
        if notice.news is News.BEGAN and stall is not None:
            return self.block(account, stall, time, utc_offset_s, "STALL")
        if notice.news is News.FOUND_ENDED and stall is not None:
            return self.block(account, stall, time, utc_offset_s, "END")
        if notice.news is News.MORE:
            return self._line(time, "STALL", account, None, self._state(account, utc_offset_s, silent=True))
        if notice.news is News.ENDED:
            return self._end(notice, time)
        waits = self._state(account, utc_offset_s, silent=False)
        if notice.news is News.REVOKED:
            waits = f"not answered after all; {waits}"
        return self._line(time, "WAIT", account, stall, waits)

    def block(self, account: Account, stall: Event, time: str, utc_offset_s: int, word: str) -> list[str]:
        """The account of a stall: what happened, until when, and what to do."""
        is_over = stall.phase == "end"
        what = [self._happened(account, stall, utc_offset_s), *_meaning(stall)]
        if is_over:
            what.insert(1, how_it_ended(stall))
        head = self._line(time, word, account, stall, "")
        if self._page.is_verbose:
            sentences = [*what, *([] if is_over else [when_it_ends(stall, utc_offset_s)])]
            lines = [line for each in sentences for line in wrapped(each, self._width)]
            return [*head, *lines, *self._owner(stall), *self._steps(stall, MAX_BLOCK), *self._further(stall)]
        until = "" if is_over else self._until_when(account, stall, utc_offset_s)
        least = [line for step, text in self._placed_steps(stall) for line in self._bare_step(step, text)]
        lines = self._fitting(what, until, MAX_BLOCK - len(head) - self._rows(least))
        return [*head, *lines, *self._steps(stall, MAX_BLOCK - len(head) - len(lines))]

    def _owner(self, stall: Event) -> list[str]:
        """What tells which job it is: the command line of a process that still holds the socket, and its cgroup."""
        is_held = stall.pids and stall.pid is not None and not stall.orphan and stall.phase != "end"
        command = self._page.command_line(stall.pid) if is_held and stall.pid and not self.other_host else ""
        command = f"{command[:MAX_COMMAND]}…" if len(command) > MAX_COMMAND else command
        cgroup = f"cgroup {safe(stall.cgroup)}" if stall.cgroup else ""
        known = [each for each in (safe(command), _names(stall), cgroup) if each]
        labels = ["Owner", *[""] * len(known)]
        return [line for label, each in zip(labels, known) for line in self._labelled_lines(label, each)]

    def _until_when(self, account: Account, stall: Event, utc_offset_s: int) -> str:
        if len(account.open) < 2:
            return when_it_ends(stall, utc_offset_s, to_seconds=True)
        until, times = self._until(account, utc_offset_s), account.gives_up_ns
        left_ns = 0 if times.least is None else times.least - stall.time_ns
        left = f" (in {duration(left_ns / 1_000_000)})" if left_ns > 0 else ""
        return f"{until[:1].upper()}{until[1:]}{left}." if until else ""

    def _fitting(self, sentences: list[str], until: str, room: int) -> list[str]:
        """As many of the sentences, from the first on, as fit that many lines with `until`.

        That has a line of its own, or where this takes too many, is part of the paragraph.
        """
        paragraph: list[str] = []
        for number in range(len(sentences), 0, -1):
            shown = [each for each in sentences[:number] if each]
            apart = [*self._filled(" ".join(shown)), *self._filled(until)]
            if len(apart) <= room:
                return apart
            paragraph = self._filled(" ".join([*shown, *([until] if until else [])]))
            if len(paragraph) <= room:
                break
        return paragraph

    def _happened(self, account: Account, stall: Event, utc_offset_s: int) -> str:
        """What happened to the stall, or to all open stalls of the account."""
        since_ns = account.since_ns.least
        is_repeated = stall.time_ns > account.newest.time_ns  # there may be more retransmissions by now
        if (len(account.open) < 2 and not is_repeated) or since_ns is None:
            return what_happened(stall, utc_offset_s)
        subject, idle = _subject(stall), _spread(account.incident.idle_ms)
        began, lasted = local_time(since_ns, utc_offset_s)[1][:8], duration((stall.time_ns - since_ns) / 1_000_000)
        what = f"{_WAITS[subject]} since {began} ({lasted})."
        return (
            f"Silent {idle}, then {what}" if idle and subject in _AFTER_SILENCE else f"{what[:1].upper()}{what[1:]}"
        )

    def _filled(self, text: str) -> list[str]:
        if not text:
            return []
        return textwrap.wrap(
            text,
            self._width,
            initial_indent=_INDENT,
            subsequent_indent=_INDENT,
            break_long_words=False,
            break_on_hyphens=False,
        )

    def _steps(self, stall: Event, room: int) -> list[str]:
        """The steps of the advice, in that many lines: where they do not fit, without their words."""
        steps = self._placed_steps(stall)
        worded = [self._step(step, text) for step, text in steps]
        for number in reversed(range(len(steps))):
            if sum(map(self._rows, worded)) <= room:
                break
            worded[number] = self._bare_step(*steps[number])
        return [line for lines in worded for line in lines]

    def _placed_steps(self, stall: Event) -> list[tuple[Step, str]]:
        """The text of each step, with the host where it has to be typed."""
        found = [(Step.of(line), self._placed(line)) for line in stall.advice or ()]
        return [(step, step.text_of(line)) for step, line in found if step is not None]

    def _rows(self, lines: list[str]) -> int:
        """The rows of the terminal that the lines take: it wraps a long command."""
        columns = self._page.columns
        return len(lines) if columns is None else sum(-(-len(line) // columns) for line in lines)

    def _bare_step(self, step: Step, text: str) -> list[str]:
        """The command without words, except where it has to be typed. Without a command, the first line."""
        words, command = split(text)
        place = place_of(words)
        short = f"{place}: {command}" if place else command
        return [self._labelled(step, short)] if command else self._step(step, text)[:1]

    def _step(self, step: Step, text: str) -> list[str]:
        """`Cure     keepalive is on, first probe after 2h: COMMAND`, the command on a line of its own if need be."""
        words, command = split(text)
        line = self._labelled(step, f"{words}: {command}" if words and command else words or command)
        if len(line) <= self._width or not words:
            return [line] if command else self._filled_step(step, words)
        if not command:
            return self._filled_step(step, words)
        return [*self._filled_step(step, f"{words}:"), f"{_INDENT}{'':<{_LABEL}}{command}"]

    def _filled_step(self, step: Step, words: str) -> list[str]:
        return self._labelled_lines(step.value, words)

    def _labelled_lines(self, label: str, text: str) -> list[str]:
        return textwrap.wrap(
            text,
            self._width,
            initial_indent=f"{_INDENT}{label:<{_LABEL}}",
            subsequent_indent=_INDENT + " " * _LABEL,
            break_long_words=False,
            break_on_hyphens=False,
        )

    def _labelled(self, step: Step, text: str) -> str:
        return f"{_INDENT}{step.value:<{_LABEL}}{text}"

    def _further(self, stall: Event) -> list[str]:
        """The advice beyond the steps."""
        further = [self._placed(line) for line in stall.advice or () if Step.of(line) is None]
        return [each for line in further for each in wrapped(f"→ {line}", self._width)]

    def _placed(self, line: str) -> str:
        """The line with the host where its command has to run; on this host, with tcpwatch as it was called here."""
        if self.other_host:
            return on_host(safe(line), self.other_host)
        return safe(line).replace("sudo tcpwatch ", f"sudo {self._page.program} ")

    def _end(self, notice: Notice, time: str) -> list[str]:
        account, stall = notice.account, notice.stall
        if stall is not None:
            sentence = how_it_ended(stall)
            what = sentence[:1].lower() + sentence[1:].rstrip(".")
            if stall.verdict != account.verdict and stall.outcome != Outcome.PRESUMED:
                what = f"{what}. {what_it_means(stall)[0]}"
            return self._line(time, "END", account, stall, what)
        words = [(_summary(outcome), count) for outcome, count in account.ended.most_common()]
        counts = words[0][0] if len(words) == 1 else ", ".join(f"{count:,} {word}" for word, count in words)
        after = _spread(account.lasted_ms)
        left = f"; {len(account.open):,} still waiting" if account.open else ""
        ended, account.ended, account.lasted_ms = sum(account.ended.values()), type(account.ended)(), Range()
        what = f"{counts}{f' after {after}' if after else ''}{left}"
        return self._line(time, "END", account, None, what, count=ended)

    def waiting(self, account: Account, now_ns: int, utc_offset_s: int) -> list[str]:
        """A line of the list of what waits already."""
        since_ns = account.since_ns.least
        since = "" if since_ns is None else f"since {local_time(since_ns, utc_offset_s)[1][:8]}, "
        text = f"{account.verdict}  {self._who(account, None)}"
        return self._joined(f"  {text}", f"{since}{self._state(account, utc_offset_s, now_ns=now_ns)}")

    def _state(self, account: Account, utc_offset_s: int, *, silent: bool = False, now_ns: int | None = None) -> str:
        """`silent 1m20s before, no answer for 1m47s, 9 retransmissions, gives up at 14:19:15`."""
        parts = []
        idle, since = account.incident.idle_ms, account.since_ns
        if silent and idle.greatest is not None:
            parts.append(f"silent {_spread(idle)}")
        now_ns = account.newest.time_ns if now_ns is None else now_ns
        subject = _subject(account.newest)
        if not silent and since.least is not None:
            parts.append(f"{_WAITS[subject]} for {duration(max(0, now_ns - since.least) / 1_000_000)}")
        if not silent and len(account.open) == 1:
            retransmits = next(iter(account.open.values())).retransmits
            if retransmits and subject is Subject.ACKNOWLEDGEMENT:
                parts.append(plural(retransmits, "retransmission"))
        parts.append(self._until(account, utc_offset_s))
        return ", ".join(part for part in parts if part)

    def _until(self, account: Account, utc_offset_s: int) -> str:
        times = account.gives_up_ns
        if times.least is None or times.greatest is None:
            return (
                "no time limit"
                if account.newest.keepalive is False and _subject(account.newest) is Subject.REPLY
                else ""
            )
        first, last = (local_time(time_ns, utc_offset_s)[1][:8] for time_ns in (times.least, times.greatest))
        if (times.greatest - times.least) // 1_000_000 <= _NOT_LATER:
            return f"gives up at {first}"
        return f"gives up from {first} to {last}"

    def _line(
        self, time: str, word: str, account: Account, stall: Event | None, tail: str, count: int | None = None
    ) -> list[str]:
        head = f"{time} {word:<5} {safe(account.verdict)}  "
        who = self._who(account, stall, count)
        line = self._joined(f"{head}{who}", tail)
        if self._page.columns is None or max(map(len, line)) <= self._page.columns or stall is None:
            return line
        # Both ends do not fit beside the owner.
        subflow = " (MPTCP subflow)" if stall.mptcp else ""
        return [f"{head}{owner(stall)}{subflow}", *self._joined(f"{_INDENT}{_ends(stall)}", tail)]

    def _joined(self, head: str, tail: str) -> list[str]:
        """Both on one line, or the tail below."""
        if not tail:
            return [head]
        line = f"{head}  {tail}"
        return [line] if len(line) <= self._width else [head, *self._filled(tail)]

    def _who(self, account: Account, stall: Event | None, count: int | None = None) -> str:
        """`php[8506] 10.77.1.2:47720 → 10.77.2.2:3306`, or `200 × gunicorn[23949] → 10.77.2.3:5432`."""
        incident = account.incident
        if incident.count == 1:
            stall = stall or account.newest
            subflow = " (MPTCP subflow)" if stall.mptcp else ""
            return f"{owner(stall)} {_ends(stall)}{subflow}"
        if stall is not None and len(account.open) <= 1:
            return f"{owner(stall)} {_ends(stall)}"
        number = len(account.open) if count is None else count
        pids = incident.pids
        where = common_place([incident.example]) if incident.has_one_place else ""
        who = where + process(incident.example)
        if len(pids) > 1:
            at_least = "at least " if len(pids) >= MAX_PIDS else ""
            who = f"{where}{safe(incident.key.owner or '?')} ({at_least}{len(pids):,} processes)"
        return f"{number:,} × {who} {_service(incident.example)}"


def _names(stall: Event) -> str:
    """`pod prod/web-7d9f, container nginx (0f3a0f3a0f3a)`, `unit nginx.service`."""
    pod = f"{stall.pod_namespace}/{stall.pod}" if stall.pod and stall.pod_namespace else stall.pod
    number = short_id(stall.container or "")
    container = f"{stall.container_name} ({number})" if stall.container_name else stall.container and number
    known = {"pod": pod, "container": container, "unit": stall.unit}
    return ", ".join(f"{name} {safe(value)}" for name, value in known.items() if value)


def _summary(outcome: str) -> str:
    known = Outcome.of(outcome)
    return safe(outcome) if known is None else known.summary


def _ends(stall: Event) -> str:
    return f"{endpoint(stall.laddr, stall.lport)} → {endpoint(stall.raddr, stall.rport)}"


def _service(stall: Event) -> str:
    service = service_of(stall)
    if service is None:
        return f"→ {endpoint(stall.raddr, stall.rport)}"
    if service.is_local:
        return f"on port {service.port}, from {endpoint(service.host, None).removesuffix(':*')}"
    return f"→ {endpoint(service.host, service.port)}"


_WAITS = {
    Subject.ACKNOWLEDGEMENT: "no answer",
    Subject.RESET: "no answer",
    Subject.CONNECTION: "no answer to the SYN",
    Subject.KEEPALIVE: "no answer to keepalive probes",
    Subject.WINDOW: "the peer's window is closed",
    Subject.SENDING: "nothing leaves this host",
    Subject.REPLY: "no reply",
}
"""What is missing, before `for` and a duration, or `since` and a time."""
_AFTER_SILENCE = frozenset({Subject.ACKNOWLEDGEMENT, Subject.RESET, Subject.KEEPALIVE})


def _subject(stall: Event) -> Subject:
    verdict = Verdict.of(stall.verdict)
    return Subject.ACKNOWLEDGEMENT if verdict is None else verdict.subject


def _meaning(stall: Event) -> list[str]:
    """What the verdict stands for; weaker after a single retransmission."""
    if stall.outcome == Outcome.PRESUMED:
        return []
    verdict, (meaning, *more) = Verdict.of(stall.verdict), what_it_means(stall)
    if stall.phase != "end" and stall.retransmits == 1 and verdict is not None and verdict.is_provisional:
        meaning = f"So far {meaning[:1].lower()}{meaning[1:]}"
    return [meaning, *more]


def _spread(numbers: Range) -> str:
    """`1m20s`, or `1m19s to 1m21s`."""
    if numbers.least is None or numbers.greatest is None:
        return ""
    least, greatest = duration(numbers.least), duration(numbers.greatest)
    return least if least == greatest else f"{least} to {greatest}"

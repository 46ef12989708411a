"""The verdicts: what a stall is consistent with. Each is declared here once.

A verdict never claims more than that, because the path cannot be seen from one end of a connection. The rule that
concludes a verdict is :func:`tracer.analysis.evidence.conclude`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from tracer.analysis.advice import idle, sentences
from tracer.analysis.advice.context import AdviceContext
from tracer.analysis.advice.steps import Advice
from tracer.model.dataclass import dataclass
from tracer.model.durations import duration
from tracer.model.events import Event

IN_USE_MS = 5000
"""A connection counts as in use if its peer was silent for less than this."""


class Subject(Enum):
    """What a stalled connection waits for. It decides which sentence describes the stall."""

    ACKNOWLEDGEMENT = auto()
    RESET = auto()
    """As ACKNOWLEDGEMENT, and a RST came, perhaps at once."""
    CONNECTION = auto()
    """An answer to the SYN."""
    KEEPALIVE = auto()
    WINDOW = auto()
    """The peer to open its window."""
    SENDING = auto()
    """This host to let the data out."""
    REPLY = auto()
    """Data in reply to a request that the peer acknowledged; nothing is in flight."""


def _keepalive_failed(stall: Event) -> str | None:
    if stall.asked_ms is None:
        return None
    return "A request was open: the peer had acknowledged it, but sent no reply before it or the path died."


def _zero_window(stall: Event) -> str | None:
    if not stall.probes_out:
        return None
    return "The peer's application did not read, and now probes are unanswered. The peer or the path may have died."


def _unreachable(stall: Event) -> str | None:
    if stall.soft_error is not None or stall.send_error is None:
        return None
    return f"This host cannot send to the peer ({stall.send_error})."


_DROPPED_BY = {"EPERM": "its firewall", "EACCES": "its firewall", "ENOMEM": "lack of memory"}


def _local_drop(stall: Event) -> str | None:
    if stall.send_error is None:
        return None
    by = _DROPPED_BY.get(stall.send_error, "its queue")
    return f"This host drops the packets that the connection sends: {by} ({stall.send_error})."


def _path_loss(stall: Event) -> str | None:
    if stall.probes_out or stall.idle_ms is None or stall.idle_ms < IN_USE_MS:
        return None
    silence = duration(stall.idle_ms)
    return f"Consistent with a path or peer that died: an idle timeout of {silence} or less is rare."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Declaration:
    name: str
    seen: str
    """What was seen, for docs/events.md."""
    meaning: str
    """For a person: what the stall is consistent with."""
    advice: Callable[[AdviceContext], Advice]
    meaning_with: Callable[[Event], str | None] = lambda stall: None
    """A more exact meaning, where the stall's event has more; None otherwise."""
    subject: Subject = Subject.ACKNOWLEDGEMENT
    blames_idleness: bool = False
    """The silence before the stall counts as fatal if the connection dies."""
    is_provisional: bool = False
    """Concluded from the first retransmission on, which may still be lost by chance."""
    is_decided: bool = True
    is_quiet: bool = False
    """It may be chance, or is harmless: live output does not print it."""
    shown_from: int = 0
    """With fewer retransmissions it may be chance: live output does not print it."""


class Verdict(str, Enum):
    """The `verdict` of a stall. A member is a str, and JSON has it as one."""

    _value_: str

    IDLE_DROP = _Declaration(
        name="idle-drop",
        seen="long silence, then nothing answers: a firewall or NAT that forgot the session, or a peer that vanished "
        "while idle",
        meaning="Consistent with a firewall or NAT that forgot the session, or a dead peer.",
        advice=idle.idle_drop,
        blames_idleness=True,
        is_provisional=True,
    )
    IDLE_RESET = _Declaration(
        name="idle-reset",
        seen="long silence, then a reset",
        meaning="Consistent with a firewall or load balancer that resets idle sessions, or a peer that restarted.",
        advice=idle.idle_reset,
        subject=Subject.RESET,
        blames_idleness=True,
    )
    KEEPALIVE_FAILED = _Declaration(
        name="keepalive-failed",
        seen="keepalive probes that nobody answers",
        meaning="Consistent with a path or peer that died while the connection was idle.",
        meaning_with=_keepalive_failed,
        advice=idle.keepalive_failed,
        subject=Subject.KEEPALIVE,
        blames_idleness=True,
    )
    PATH_LOSS = _Declaration(
        name="path-loss",
        seen="a connection in use, then no answer: the path or the peer died",
        meaning="The connection was in use. Consistent with a path or peer that died, not with an idle timeout.",
        meaning_with=_path_loss,
        advice=sentences.path_loss,
    )
    NO_ANSWER = _Declaration(
        name="no-answer",
        seen="a retransmission or two of a connection in use: too few to tell a lost packet from a dead path. Also "
        "of an end that is `presumed`",
        meaning="Too few retransmissions so far to tell a lost packet from a dead path.",
        advice=sentences.no_advice,
        is_decided=False,
        is_quiet=True,
    )
    PACKET_LOSS = _Declaration(
        name="packet-loss",
        seen="it was answered after all, within ten seconds; by a reset, too, if that came before the third "
        "retransmission, or in answer to a FIN",
        meaning="Consistent with packet loss.",
        advice=sentences.packet_loss,
        is_quiet=True,
    )
    UNANSWERED = _Declaration(
        name="unanswered",
        seen="the peer acknowledged a request and has not answered it: slow, stopped, or its answer was lost on the "
        "path. A connection with a last message that needs no reply looks the same",
        meaning="A slow reply, a stopped peer and a lost reply look the same from here. If none is due, nothing is "
        "wrong.",
        advice=sentences.unanswered,
        subject=Subject.REPLY,
    )
    LOCAL_DROP = _Declaration(
        name="local-drop",
        seen="this host itself drops what the connection sends: its firewall (hook output), or its queue",
        meaning="This host drops the packets that the connection sends: its firewall, a queue, or no route.",
        meaning_with=_local_drop,
        advice=sentences.local_drop,
        subject=Subject.SENDING,
    )
    UNREACHABLE = _Declaration(
        name="unreachable",
        seen="ICMP says so, or this host has no route",
        meaning="The network reports the peer as unreachable.",
        meaning_with=_unreachable,
        advice=sentences.unreachable,
    )
    ZERO_WINDOW = _Declaration(
        name="zero-window",
        seen="the peer closed its window and answers the probes: its application does not read. After three probes "
        "without an answer it is `path-loss`",
        meaning="The peer answers, but its application does not read. The network is not at fault.",
        meaning_with=_zero_window,
        advice=sentences.zero_window,
        subject=Subject.WINDOW,
    )
    HANDSHAKE = _Declaration(
        name="handshake",
        seen="a SYN that nobody answers",
        meaning="Consistent with a firewall that drops the connection, or no host at that address.",
        advice=sentences.handshake,
        subject=Subject.CONNECTION,
        shown_from=2,
    )
    PEER_CLOSED = _Declaration(
        name="peer-closed",
        seen="the peer had closed, and the application wrote",
        meaning="The peer had closed this connection before the application wrote to it.",
        advice=sentences.peer_closed,
        subject=Subject.RESET,
    )

    def __new__(cls, declared: _Declaration) -> Verdict:
        """A member with the name that JSON has."""
        member = str.__new__(cls, declared.name)
        member._value_ = declared.name
        return member

    def __init__(self, declared: _Declaration) -> None:
        self.seen = declared.seen
        self.meaning = declared.meaning
        self.subject = declared.subject
        self.blames_idleness = declared.blames_idleness
        self.is_provisional = declared.is_provisional
        self.is_decided = declared.is_decided
        self.is_quiet = declared.is_quiet
        self.shown_from = declared.shown_from
        self._declared = declared

    def __str__(self) -> str:
        return str.__str__(self)

    def __format__(self, format_spec: str) -> str:
        return str.__format__(self, format_spec)

    @classmethod
    def of(cls, name: str | None) -> Verdict | None:
        """The verdict of that name; None for none, and for one of a later version."""
        return _BY_NAME.get(name or "")

    def meaning_of(self, stall: Event) -> str:
        """The meaning for this stall. It may contain the event's text as a recording has it."""
        return self._declared.meaning_with(stall) or self.meaning

    def advice(self, context: AdviceContext) -> list[str]:
        """At most one line of each step (:mod:`tracer.analysis.advice.steps`), then further lines. May be empty.

        A command stands at the end of its line after a colon, to be copied. The text of an event (process names, a
        recording's addresses) is in none of them unless it was parsed.
        """
        advice = sentences.mptcp(context) if context.event.mptcp else self._declared.advice(context)
        return advice.lines()


_BY_NAME: dict[str, Verdict] = {verdict.value: verdict for verdict in Verdict}

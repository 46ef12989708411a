"""How a stall ended: each outcome is declared here once."""

from __future__ import annotations

from enum import Enum

from tracer.model.dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class _Declaration:
    name: str
    sentence: str
    """For a person. {after}: ` after 15m28s`. {gets}: `: the application gets ETIMEDOUT`. Either may be empty."""
    summary: str
    """For a person, of several stalls: `timed out`."""
    has_evidence: bool = True
    """False: it follows from what was not seen. A later event of the same stall may revoke it."""
    is_harmless: bool = False
    """The connection goes on, as far as is known: there is nothing to change."""
    is_death: bool = False
    """The connection ended with an error."""
    is_undecided: bool = False
    """The connection was still waiting, or this end closed it, before the kernel gave up."""


class Outcome(str, Enum):
    """The `outcome` of a stall's `end`. A member is a str, and JSON has it as one."""

    _value_: str

    RECOVERED = _Declaration(name="recovered", summary="answered", sentence="Answered{after}.", is_harmless=True)
    TIMED_OUT = _Declaration(name="timed-out", summary="timed out", sentence="Timed out{after}{gets}.", is_death=True)
    RESET = _Declaration(name="reset", summary="reset", sentence="Reset{after}{gets}.", is_death=True)
    CLOSED = _Declaration(
        name="closed", summary="closed by this end", sentence="Closed by this end{after}{gets}.", is_undecided=True
    )
    ENDED = _Declaration(
        name="ended",
        summary="ended by tcpwatch end",
        sentence="Ended by tcpwatch end{after}{gets}.",
        is_undecided=True,
    )
    UNREACHABLE = _Declaration(
        name="unreachable", summary="given up", sentence="Given up{after}{gets}.", is_death=True
    )
    ONGOING = _Declaration(
        name="ongoing", summary="not over yet", sentence="Not over yet{after}.", has_evidence=False, is_undecided=True
    )
    PRESUMED = _Declaration(
        name="presumed",
        summary="probably answered",
        sentence="No further {what} was seen{after}: {guess}.",
        has_evidence=False,
        is_harmless=True,
    )
    UNSEEN = _Declaration(
        name="unseen",
        summary="answered or given up, unseen",
        sentence="No further {what} was seen{after}: it was answered, or the kernel gave up.",
        has_evidence=False,
    )
    ALIVE = _Declaration(
        name="alive",
        summary="alive, without a reply yet",
        sentence="The peer answered a probe or acknowledged more data{after}, but has not replied yet.",
        is_harmless=True,
    )

    def __new__(cls, declared: _Declaration) -> Outcome:
        """A member with the name that JSON has."""
        member = str.__new__(cls, declared.name)
        member._value_ = declared.name
        return member

    def __init__(self, declared: _Declaration) -> None:
        self.sentence = declared.sentence
        self.summary = declared.summary
        self.has_evidence = declared.has_evidence
        self.is_harmless = declared.is_harmless
        self.is_death = declared.is_death
        self.is_undecided = declared.is_undecided

    def __str__(self) -> str:
        return str.__str__(self)

    def __format__(self, format_spec: str) -> str:
        return str.__format__(self, format_spec)

    @classmethod
    def of(cls, name: str | None) -> Outcome | None:
        """The outcome of that name; None for none, and for one of a later version."""
        return _BY_NAME.get(name or "")


_BY_NAME: dict[str, Outcome] = {outcome.value: outcome for outcome in Outcome}
WITHOUT_EVIDENCE: frozenset[str] = frozenset(outcome for outcome in Outcome if not outcome.has_evidence)
"""Outcomes that a later event of the same stall may revoke."""

"""The steps of advice: check what is wrong, release what waits now, protect what is open, cure the cause.

Each verdict's advice begins with at most one line of each step, in this order. These lines begin with the name of the
step and a colon: a person finds them, and live output shows only them without `-v`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum

from tracer.analysis.advice.commands import split
from tracer.model.dataclass import dataclass

MAX_TEXT = 60
"""Characters of a step without its command. Live output has two lines of 80 columns for a step."""


class Step(str, Enum):
    """What a line of advice is for. The value is the word before its colon."""

    CHECK = "Check"
    RELEASE = "Release"
    PROTECT = "Protect"
    CURE = "Cure"

    def line(self, text: str) -> str:
        """The line of advice of this step. A command stands at the end of the text, after a colon."""
        return f"{self.value}: {text}"

    @classmethod
    def of(cls, line: str) -> Step | None:
        """The step that a line of advice begins with; None for further advice."""
        return _BY_NAME.get(line.partition(": ")[0])

    def text_of(self, line: str) -> str:
        """The line without the name of the step."""
        return line.removeprefix(f"{self.value}: ")


_BY_NAME = {step.value: step for step in Step}


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to do about a stall: the text of each step, empty without that step, and further lines."""

    check: str = ""
    release: str = ""
    protect: str = ""
    cure: str = ""
    further: Sequence[str] = ()

    def lines(self) -> list[str]:
        """The lines of an event's `advice`, each once."""
        texts = {
            Step.CHECK: self.check,
            Step.RELEASE: self.release,
            Step.PROTECT: self.protect,
            Step.CURE: self.cure,
        }
        return list(dict.fromkeys([*(step.line(text) for step, text in texts.items() if text), *self.further]))


def fits(text: str) -> bool:
    """Whether a text is short enough for a step."""
    return len(split(text)[0]) <= MAX_TEXT


def shorter(setting: str) -> str:
    """`for psql: …` instead of `if this is psql: …`."""
    return re.sub("^if this is ", "for ", setting)


def first_fitting(*texts: str) -> str:
    """The first of the texts that is neither empty nor too long for a step; empty if there is none."""
    return next((text for text in texts if text and fits(text)), "")

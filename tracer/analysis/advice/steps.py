"""The steps of advice: check what is wrong, release what waits now, cure the cause.

Each verdict's advice begins with at most one line of each step, in this order. These lines begin with the name of the
step and a colon: a person finds them, and live output shows only them without `-v`.
"""

from __future__ import annotations

from enum import Enum


class Step(str, Enum):
    """What a line of advice is for. The value is the word before its colon."""

    CHECK = "Check"
    RELEASE = "Release"
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

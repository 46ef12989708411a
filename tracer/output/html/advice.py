"""What to do, by service: the steps of the advice, with commands that can be copied whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tracer.analysis.advice.steps import Step
from tracer.output.html.contents import ServiceContents
from tracer.output.html.markup import text
from tracer.output.stall_text import COMMANDS

MAX_LINE = 600
"""Characters of one line of advice."""


def advice(services: Iterable[ServiceContents]) -> Iterator[str]:
    """A part for each service that has advice."""
    for service in services:
        if service.advice:
            lines = "".join(f"<li>{line_of(line)}</li>" for line in service.advice)
            yield f'<section class="advice"><h3>{text(service.name)}</h3><ul>{lines}</ul></section>'


def line_of(line: str) -> str:
    """A line of advice: the name of its step in bold, and the command at its end as code."""
    sentence, colon, command = line.rpartition(": ")
    if not (colon and command.startswith(COMMANDS)):
        sentence, command = line, ""
    owner, step, rest = _parts(sentence)
    opening = f"{text(owner)}: " if owner else ""
    named = f"<b>{step.value}</b> " if step is not None else ""
    code = f": <code>{text(command, MAX_LINE)}</code>" if command else ""
    return f"{opening}{named}{text(rest, MAX_LINE)}{code}"


def _parts(sentence: str) -> tuple[str, Step | None, str]:
    """The owner that the line is for, if not all; its step, if it has one; the rest."""
    for step in Step:
        opening = step.line("")
        if sentence.startswith(opening):
            return "", step, sentence.removeprefix(opening)
        owner, separator, rest = sentence.partition(f": {opening}")
        if separator:
            return owner, step, rest
    return "", None, sentence

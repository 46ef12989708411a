"""What to do, by service: the advice of the text report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tracer.output.html.blocks import advice_line
from tracer.output.html.contents import ServiceContents
from tracer.output.html.markup import text


def advice(services: Iterable[ServiceContents]) -> Iterator[str]:
    """A part for each service that has advice."""
    for service in services:
        if service.advice:
            lines = "".join(map(advice_line, service.advice))
            yield f'<section class="advice"><h3>{text(service.name)}</h3><ul class="steps">{lines}</ul></section>'

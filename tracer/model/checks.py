"""Results of `tcpwatch check`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tracer.model.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """The status of one item. needed: live tracing is impossible without it. hint: what to do if it is missing."""

    what: str
    status: Literal["ok", "fallback", "missing"]
    detail: str = ""
    hint: str = ""
    needed: bool = False


def can_trace(findings: Sequence[Finding]) -> bool:
    """Whether live tracing is possible."""
    return not any(finding.needed and finding.status == "missing" for finding in findings)

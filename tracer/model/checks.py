"""One thing that `tcpwatch check` looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """needed: without it live tracing is not possible. hint: what to do where it is missing."""

    what: str
    status: Literal["ok", "fallback", "missing"]
    detail: str = ""
    hint: str = ""
    needed: bool = False


def can_trace(findings: Sequence[Finding]) -> bool:
    """Whether nothing that is needed is missing."""
    return not any(finding.needed and finding.status == "missing" for finding in findings)

"""The result of `tcpwatch check`, for a person and for a program."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tracer.model.checks import Finding, can_trace
from tracer.output.format import safe
from tracer.output.table import table


def findings_as_text(findings: Sequence[Finding]) -> str:
    """A table, then the hints, then the verdict."""
    text = table(["WHAT", "STATUS", "DETAIL"], [(f.what, f.status, f.detail) for f in findings])
    for finding in findings:
        if finding.status == "missing" and finding.hint:
            text += f"Hint: {safe(finding.what)}: {safe(finding.hint)}\n"
    return text + ("Live tracing works here.\n" if can_trace(findings) else "Live tracing does not work here.\n")


def findings_as_json(findings: Sequence[Finding]) -> str:
    """One object on a line. `live`: whether live tracing works. `findings`: the rows."""
    result = {
        "live": can_trace(findings),
        "findings": [
            {"what": f.what, "status": f.status, "detail": f.detail, "hint": f.hint, "needed": f.needed}
            for f in findings
        ],
    }
    return json.dumps(result) + "\n"

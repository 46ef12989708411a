"""The table of tested kernels in docs/requirements.md, written from outcomes only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from machines.matrix import EVERY, Finding, Outcome

BEGIN = "<!-- what was run: scripts/vm test all --write -->\n"
END = "<!-- end -->\n"

_HEADS = ("target", "kernel", "bcc", "Python", "keepalive", "reset (refused)", "error", "tests")
_HOOKS = ("keepalive", "reset (refused)", "error")


def write(outcomes: Sequence[Outcome], document: Path) -> None:
    """Put the rows of these outcomes in place of the same targets' between BEGIN and END; others stay.

    A target that did not pass has no row any more.
    """
    text = document.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    old, _, after = rest.partition(END)
    rows = {row.split("|")[1].strip(): f"{row}\n" for row in old.splitlines()[2:]}
    for outcome in outcomes:
        rows.pop(outcome.target, None)
        if outcome.passed and not outcome.failed:
            rows[outcome.target] = _row(_cells(outcome))
    table = [_row(_HEADS), _row(["---"] * len(_HEADS)), *(rows[target] for target in EVERY if target in rows)]
    document.write_text(f"{before}{BEGIN}{''.join(table)}{END}{after}", encoding="utf-8")


def _cells(outcome: Outcome) -> list[str]:
    facts = outcome.facts
    release = facts["kernel"]["detail"].partition(" ")[0]
    versions = [release, facts["bcc"]["detail"], facts["Python"]["detail"]]
    return [outcome.target, *versions, *(_hook(facts[name]) for name in _HOOKS), f"{outcome.passed} passed"]


def _hook(finding: Finding) -> str:
    return str(finding["detail"] if finding["status"] == "ok" else f"{finding['status']}: {finding['detail']}")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"

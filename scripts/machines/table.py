"""The table in docs/requirements.md of what was run: written from the outcomes, and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from machines.matrix import Finding, Outcome

BEGIN = "<!-- what was run: scripts/vm test all --write -->\n"
END = "<!-- end -->\n"

_HEADS = ("kernel", "bcc", "Python", "keepalive", "reset (refused)", "error", "tests")
_HOOKS = ("keepalive", "reset (refused)", "error")


def write(outcomes: Sequence[Outcome], document: Path) -> None:
    """Put the table in place of the one between BEGIN and END."""
    text = document.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    document.write_text(f"{before}{BEGIN}{''.join(rows(outcomes))}{END}{after}", encoding="utf-8")


def rows(outcomes: Sequence[Outcome]) -> list[str]:
    """Markdown lines, one for each machine that all tests passed on."""
    lines = [_row(_HEADS), _row(["---"] * len(_HEADS))]
    for outcome in outcomes:
        if outcome.passed and not outcome.failed:
            facts = outcome.facts
            release = facts["kernel"]["detail"].partition(" ")[0]
            told = [release, facts["bcc"]["detail"], facts["Python"]["detail"]]
            lines.append(_row([*told, *map(_hook, (facts[name] for name in _HOOKS)), f"{outcome.passed} passed"]))
    return lines


def _hook(finding: Finding) -> str:
    return finding["detail"] if finding["status"] == "ok" else f"{finding['status']}: {finding['detail']}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"

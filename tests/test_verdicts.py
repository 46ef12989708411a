"""Each verdict and each outcome is declared once, and everything else follows from the declaration."""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.analysis.evidence import CHANCE, OUTAGE_NS, Evidence, conclude
from tracer.analysis.outcomes import Outcome
from tracer.analysis.verdicts import Verdict

ROOT = Path(__file__).resolve().parent.parent
MIN_IDLE_MS = 60_000
SIGNS = ("rto", "fin", "keepalive", "waiting", "reset")
FLAGS = ("handshake", "peer_closed", "icmp", "dropped_here", "window_closed", "one_way", "reset")


def every_evidence() -> Iterator[Evidence]:
    """All combinations of what the rule looks at."""
    for sign, idle_ms, attempt, outcome in itertools.product(
        SIGNS, (None, MIN_IDLE_MS), (1, CHANCE), (None, *Outcome)
    ):
        for flags in itertools.product((False, True), repeat=len(FLAGS)):
            yield Evidence(
                sign,
                idle_ms,
                attempt=attempt,
                unanswered_probes=attempt,
                outcome=outcome,
                duration_ns=OUTAGE_NS - 1,
                **dict(zip(FLAGS, flags)),
            )


def test_the_rule_concludes_every_verdict() -> None:
    assert {conclude(evidence, MIN_IDLE_MS) for evidence in every_evidence()} == set(Verdict)


@pytest.mark.parametrize("verdict", Verdict)
def test_a_verdict_never_claims_to_know_the_cause(verdict: Verdict) -> None:
    assert verdict.meaning.endswith(".") and not re.search(r"\b(because|caused|certainly)\b", verdict.meaning)
    assert verdict.seen and not verdict.seen.endswith(".")


def names_in(file: Path) -> set[str]:
    return {
        node.value
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


# A filter is part of the model, which imports nothing. An action has results of its own.
EXCEPT = {
    ("model/filters.py", "unanswered"),
    ("cli/habits.py", "alive"),
    ("model/actions.py", "alive"),
    ("model/actions.py", "ended"),
    ("model/actions.py", "no-answer"),
    ("model/actions.py", "recovered"),
    ("model/actions.py", "unreachable"),
    ("model/protection.py", "unreachable"),
    ("output/otlp/names.py", "closed"),  # a state of a connection
    # How an end of a connection was closed, and what the other end shows of a stall (docs/events.md).
    ("analysis/connection_ends.py", "closed"),
    ("analysis/connection_ends.py", "ended"),
    ("analysis/connection_ends.py", "peer-closed"),
    ("analysis/two_ends.py", "closed"),
    ("analysis/two_ends.py", "peer-closed"),
    ("output/two_ends_json.py", "closed"),
    ("output/two_ends_reader.py", "closed"),
    ("output/other_end_text.py", "closed"),
    ("output/other_end_text.py", "ended"),
}


@pytest.mark.parametrize("kind", [Verdict, Outcome])
def test_a_name_is_spelled_only_in_its_declaration(kind: type[Verdict] | type[Outcome]) -> None:
    declared = {"analysis/verdicts.py", "analysis/outcomes.py"}
    # output/html/ has words for marks and their shapes.
    # Words that are something else as well: a RST's event, a change that an event reports.
    others = {"reset"}
    for file in (ROOT / "tracer").rglob("*.py"):
        name = file.relative_to(ROOT / "tracer").as_posix()
        if name not in declared and not name.startswith("output/html/"):
            spelled = {(name, each.value) for each in kind if each.value in names_in(file) - others}
            assert spelled <= EXCEPT


@pytest.mark.parametrize("member", [*Verdict, *Outcome])
def test_a_member_is_its_name_wherever_text_is_expected(member: Verdict | Outcome) -> None:
    name = member.value
    assert type(name) is str
    assert (str(member), f"{member}", f"{member:>20}", json.dumps([member])) == (
        name, name, f"{name:>20}", json.dumps([name]),
    )  # fmt: skip
    assert {name: 1}[member] == 1 and type(member).of(name) is member
    assert type(member).of("of-a-later-version") is None is type(member).of(None)


def table(page: str, heading: str) -> dict[str, str]:
    """The rows below a heading row, the first column without its backticks."""
    lines = iter(page.splitlines())
    for line in lines:
        if line == heading:
            next(lines)
            rows = itertools.takewhile(lambda row: row.startswith("| `"), lines)
            return {name.strip(" `"): text.strip() for _, name, text, _ in (row.split("|") for row in rows)}
    raise AssertionError(f"no table {heading}")


def test_the_page_about_events_has_the_declared_words() -> None:
    page = (ROOT / "docs/events.md").read_text()
    assert table(page, "| verdict | what was seen |") == {verdict.value: verdict.seen for verdict in Verdict}

"""The documents say what the code does: every name of the public contract stands where a user looks for it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from tracer.analysis.outcomes import Outcome
from tracer.analysis.risk import REASONS
from tracer.analysis.verdicts import Verdict
from tracer.cli.main import cli
from tracer.cli.options import FILTER_NAMES
from tracer.model.events import EVENTS, Event
from tracer.model.sockets import Socket

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.parametrize("kind", [Event, Socket])
def test_every_field_is_explained(kind: type) -> None:
    text = (DOCS / "events.md").read_text()
    for field in fields(kind):
        name = "time" if field.name == "time_ns" else field.name
        assert f"`{name}`" in text, name


def test_every_value_is_explained() -> None:
    text = (DOCS / "events.md").read_text()
    for word in (*EVENTS, *Verdict, *Outcome, *REASONS, "data", "keepalive", "window", "no-progress"):
        assert f"`{word}`" in text, word


def test_the_manual_page_has_every_command_and_option() -> None:
    text = (DOCS / "tcpwatch.8").read_text().replace("\\-", "-")
    context = cli.make_context("tcpwatch", ["check"])
    for name in cli.list_commands(context):
        assert f"tcpwatch {name}" in text, name
        command = cli.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--") and option != "--help":
                    assert option in text, f"{name} {option}"
    for verdict in (*Verdict, *Outcome, *EVENTS):
        assert verdict in text, verdict


def test_the_readme_has_every_verdict_and_filter() -> None:
    text = (DOCS.parent / "README.md").read_text()
    for verdict in Verdict:
        assert f"`{verdict}`" in text, verdict
    assert len(FILTER_NAMES) == 11
    for option in ("--port", "--lport", "--rport", "--host", "-4", "-6", "--pid", "--comm", "--netns", "--event"):
        assert option in text, option

"""The documents say what the code does: every name of the public contract stands where a user looks for it."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from tracer.analysis.outcomes import Outcome
from tracer.analysis.risk import REASONS
from tracer.analysis.stuck import Stuck
from tracer.analysis.verdicts import Verdict
from tracer.cli.main import cli
from tracer.cli.options import FILTER_NAMES
from tracer.model.events import Event
from tracer.model.kinds import EVENTS
from tracer.model.sockets import Socket

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("**/*.md")]


@pytest.mark.parametrize("kind", [Event, Socket])
def test_every_field_is_explained(kind: type) -> None:
    text = (DOCS / "events.md").read_text()
    for field in fields(kind):
        name = "time" if field.name == "time_ns" else field.name
        assert name == "trouble" or f"`{name}`" in text, name  # not in JSON


def test_every_value_is_explained() -> None:
    text = (DOCS / "events.md").read_text()
    for word in (
        *(reason.slug for reason in Stuck),
        *EVENTS,
        *Verdict,
        *Outcome,
        *REASONS,
        "data",
        "keepalive",
        "window",
        "no-progress",
    ):
        assert f"`{word}`" in text, word


def has_option(text: str, option: str) -> bool:
    """Whether the option itself is named, and not only one that begins with it."""
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text) is not None


def bold_words(page: str) -> set[str]:
    """The words in bold in a manual page: values and names, unlike the same words in a sentence."""
    lines = [line for line in page.splitlines() if line.startswith(".B")]
    return {word for line in lines for word in re.findall(r"[\w-]+", line)}


def test_only_a_name_counts_and_no_word_of_a_sentence() -> None:
    assert bold_words(".BR state , reset\nA change of closed.") >= {"state", "reset"}
    assert "closed" not in bold_words(".BR state\nA change of closed.")
    assert has_option("[--keep N]", "--keep") and not has_option("--keep-size", "--keep")


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
                    assert has_option(text, option), f"{name} {option}"
    for word in (*Verdict, *Outcome, *EVENTS):
        assert word in bold_words(text), word


def test_the_manual_page_is_laid_out_without_a_warning() -> None:
    command = ["groff", "-man", "-Tutf8", "-ww", str(DOCS / "tcpwatch.8")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not done.stderr
    shown = re.sub(r"\x1b\[[\d;]*m|.\x08", "", done.stdout)
    sections = ("SYNOPSIS", "OPTIONS", "OUTPUT", "EXIT STATUS", "SIGNALS", "ENVIRONMENT", "FILES", "EXAMPLES")
    for section in sections:
        assert f"\n{section}\n" in shown, section


def test_the_first_screen_of_the_readme_has_what_helps() -> None:
    """The problem, the real block, the commands in the order in which they are typed."""
    screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:50])
    position = 0
    steps = ("STALL idle-drop", "Gives up at", "git clone", "sudo scripts/tcpwatch ", "Already waiting", "**Check**",
             "**Release**", "**Cure**", "sockets --stuck", "end --stuck")  # fmt: skip
    for step in steps:
        assert step in screen[position:], step
        position = screen.index(step, position)
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170


def test_the_readme_has_every_verdict_and_filter() -> None:
    text = (DOCS.parent / "README.md").read_text()
    for verdict in Verdict:
        assert f"`{verdict}`" in text, verdict
    assert len(FILTER_NAMES) == 14
    for option in ("--port", "--lport", "--rport", "--host", "-4", "-6", "--pid", "--comm", "--netns", "--event",
                   "--container", "--pod", "--unit"):  # fmt: skip
        assert has_option(text, option), option


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_and_links_in_a_page_exist(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"(?<![\w/.:])(?:bpf|docs|scripts|tests|tracer)/[\w./-]*\w", text):
        assert (ROOT / name).exists(), name
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        assert not anchor or anchor in _anchors(linked), f"{target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_hooks_of_pre_commit_check_what_the_tests_check() -> None:
    config = (ROOT / ".pre-commit-config.yaml").read_text()
    patterns = [re.compile(pattern) for pattern in re.findall(r"files: (\S+)", config)]
    checks = re.findall(r"^ +(?:shellcheck|.*clang-format\").*", (ROOT / "scripts/test").read_text(), re.MULTILINE)
    named = {word for line in checks for word in line.split() if not word.startswith(("-", '"')) and "/" in word}
    files = {str(path.relative_to(ROOT)) for name in named for path in ROOT.glob(name)}
    assert files
    for file in files:
        assert any(pattern.search(file) for pattern in patterns), file

"""Every shell example of the documents is run here, run in tests/kernel/test_live_examples.py, or parsed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from docs_examples import (
    NOT_RUN,
    PAGES,
    ROOT,
    RUN,
    Example,
    Way,
    assert_printed,
    commands_of,
    examples,
    is_shell,
    name_of,
    of_way,
    shape,
    way_of,
)
from docs_recordings import QUIET, write_recordings

from tracer.cli.main import cli

SHIMS = ROOT / "tests" / "kernel" / "shims"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the examples are typed: recordings, and tcpwatch where a clone has it."""
    made = tmp_path_factory.mktemp("examples")
    write_recordings(made)
    (made / "scripts").mkdir()
    (made / "scripts" / "tcpwatch").symlink_to(SHIMS / "tcpwatch")
    return made


def typed(command: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Type it there."""
    path = os.pathsep.join([str(SHIMS), os.environ.get("PATH", os.defpath)])
    environment = {
        **os.environ, "PATH": path, "TCPWATCH_PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "COLUMNS": "100",
    }  # fmt: skip
    return subprocess.run(
        ["bash", "-c", command.replace("/var/log/tcpwatch", "log").replace("/srv/tcpwatch", "fleet")],
        cwd=directory, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("example", examples(), ids=name_of)
def test_somebody_knows_how_to_try_it(example: Example) -> None:
    assert way_of(example.command), "add it to NOT_RUN with its reason, or to RUN"
    assert is_shell(example.command)


@pytest.mark.parametrize("example", of_way(Way.OFFLINE), ids=name_of)
def test_it_works_as_written(example: Example, directory: Path) -> None:
    before = set(directory.iterdir())
    done = typed(example.command, directory)
    for made in set(directory.iterdir()) - before:
        made.unlink()
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    prints_nothing = any(word in example.command for word in ("--html", "jq -e", " > "))
    assert done.stdout or prints_nothing, "it prints nothing"
    assert_printed(example, done.stdout)


@pytest.mark.parametrize("example", [*of_way(Way.LIVE), *of_way(Way.NOT_RUN)], ids=name_of)
def test_the_command_line_accepts_it(example: Example, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)
    for words in arguments_of(example.command):
        parse(words)


def parse(words: list[str]) -> None:
    """Parse it as the command line does, without doing anything. click.UsageError if it is wrong."""
    context = cli.make_context("tcpwatch", words[:0] if words[:1] and not words[0].startswith("-") else list(words))
    if words and not words[0].startswith("-"):
        _, command, remaining = cli.resolve_command(context, list(words))
        assert command is not None
        command.make_context(command.name, remaining, parent=context)


def arguments_of(command: str) -> list[list[str]]:
    """The arguments of each tcpwatch in a command line. A value that only the shell knows is 1."""
    command = re.sub(r'"?[^\s"]*\$\([^)]*\)[^\s"]*"?', "1", command)
    lexer = shlex.shlex(command, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    found: list[list[str]] = []
    is_open = False
    for word in lexer:
        if re.fullmatch(r"(.*/)?tcpwatch", word):
            found.append([])
            is_open = True
        elif re.fullmatch(r"[();<>|&]+", word):
            is_open = False
        elif is_open:
            found[-1].append(word)
    return found


def test_the_build_fails_where_a_connection_stalled(directory: Path) -> None:
    """What passes a quiet recording does not pass one with stalls."""
    checks = [each.command for each in of_way(Way.OFFLINE) if QUIET in each.command and "jq -e" in each.command]
    judged = [
        typed(each.replace(QUIET, "night.tw.gz"), directory).returncode for each in checks if "lost" not in each
    ]
    assert judged == [1, 1]


# --- that these tests can fail


def test_a_wrong_option_is_found() -> None:
    assert arguments_of("ssh db1 sudo tcpwatch record -o - | tcpwatch replay - > x") == [
        ["record", "-o", "-"], ["replay", "-"],
    ]  # fmt: skip
    parse(["record", "-o", "-"])
    for wrong in (["record", "--output-file", "x"], ["--prot", "3306"], ["reprot"]):
        with pytest.raises(click.UsageError):
            parse(wrong)


def test_another_output_is_found() -> None:
    example = Example("page", "command", "05:12 STALL a[1]\n    Silent 7.5s\n…\nend\n")
    assert_printed(example, "first\n15:12:13 STALL a[77] Silent\n 1h02m\nmore\nend\n")
    for other in (
        "05:12 STALL b[1] Silent 7.5s end",
        "05:12 STALL a[1] Silent 7.5s",
        "end 05:12 STALL a[1] Silent 7s",
    ):
        with pytest.raises(AssertionError):
            assert_printed(example, other)
    assert shape("tcp_keepalive_time=60 in 13.2s") == "tcp_keepalive_time=N in N"


def test_an_unknown_example_is_found() -> None:
    assert way_of("curl https://example.org | sudo bash") is None
    assert commands_of("a 'b\nc'   # why\n# no\n\nd \\\n  e") == ["a 'b\nc'", "d \\\n  e"]


def test_every_reason_is_still_needed() -> None:
    texts = [" ".join(example.command.split()) for example in examples()]
    for pattern in (*NOT_RUN, *RUN.values()):
        assert any(re.fullmatch(pattern, text) for text in texts), pattern


@pytest.mark.parametrize("page", [page for page in PAGES if page.suffix == ".md"], ids=lambda page: page.name)
def test_no_example_hides_in_an_indented_block(page: Path) -> None:
    fenced = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    hidden = re.findall(r"^    (?:\$ |# )?(?:sudo|tcpwatch|scripts/|jq|ssh) .*", fenced, re.MULTILINE)
    assert not hidden, "put it in a block that begins with ```sh"
    assert not re.findall(r"^```(?!sh|text|json|sql|ini|yaml|mermaid|$).*", page.read_text(), re.MULTILINE)

"""Errors of click, which parses the command line, with hints."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import click

from tracer.cli.habits import suggestion
from tracer.model.errors import UsageError

_HINTS_FOR_OTHERS = {
    "-r": "tcpwatch replay FILE",
    "-c": "tcpwatch | head -n 100, or tcpwatch --duration 10m",
    "-o": "tcpwatch record -o FILE",
    "-f": "tcpwatch --pid PID",
    "-P": "tcpwatch --pid PID",
    "port": "tcpwatch --port 3306",
    "host": "tcpwatch --host 10.1.2.3",
    "net": "tcpwatch --host 10.1.0.0/16",
    "src": "tcpwatch --host 10.1.2.3",
    "dst": "tcpwatch --host 10.1.2.3",
    "sport": "tcpwatch --lport 3306",
    "dport": "tcpwatch --rport 3306",
    "tcp": "tcpwatch --port 3306",
    "ip": "tcpwatch -4",
    "ip6": "tcpwatch -6",
}
"""Options and words of ss, tcpdump and strace without what belongs to them, and the tcpwatch command for each."""


def usage_error(error: click.ClickException, group: click.Group, arguments: Sequence[str]) -> UsageError:
    """The usage error for an error of click, with a hint. arguments: of the group."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    help_hint = f"{context.command_path if context is not None else 'tcpwatch'} --help"
    # click names options that are less similar than those of the hint.
    message = (
        f"No such option: {error.option_name}" if isinstance(error, click.NoSuchOption) else error.format_message()
    )
    return UsageError(message, hint=_hint(error, group, arguments) or help_hint)


def _hint(error: click.ClickException, group: click.Group, arguments: Sequence[str]) -> str | None:
    """A line to type, or None."""
    if isinstance(error, click.NoSuchOption):
        return suggestion(group, arguments) or _known(error.option_name, arguments)
    if isinstance(error, click.MissingParameter):
        is_of_record = error.param is not None and "--output" in error.param.opts
        return suggestion(group, arguments) if is_of_record else None
    if not isinstance(error, click.UsageError) or isinstance(error, click.BadParameter):
        return None
    if found := re.match(r"No such command '(.*)'", error.message):
        return _hint_for_word(found[1], group, arguments)
    return suggestion(group, arguments) if "unexpected extra argument" in error.message else None


def _hint_for_word(word: str, group: click.Group, arguments: Sequence[str]) -> str | None:
    if word.isascii() and word.isdecimal() and len(arguments) == 1:
        sudo = "" if os.geteuid() == 0 else "sudo "
        return f"{sudo}tcpwatch --port {word}, or {sudo}tcpwatch --pid {word}"
    return suggestion(group, arguments) or _known(word, arguments)


def _known(word: str, arguments: Sequence[str]) -> str | None:
    return _HINTS_FOR_OTHERS.get(word) if len(arguments) == 1 else None

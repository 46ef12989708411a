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

_WITH_FILTERS = (["sockets"], ["probe"], ["end"])


def usage_error(error: click.ClickException, group: click.Group, arguments: Sequence[str]) -> UsageError:
    """The usage error for an error of click, with a hint. arguments: of the group."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    # Without a context the parser of the command found the error.
    command = next((word for word in arguments if word in group.commands), "")
    path = context.command_path if context is not None else " ".join(filter(None, ["tcpwatch", command]))
    # click names options that are less similar than those of the hint.
    message = (
        f"No such option: {error.option_name}" if isinstance(error, click.NoSuchOption) else error.format_message()
    )
    return UsageError(" ".join(message.split()), hint=_hint(error, group, arguments) or f"{path} --help")


def _hint(error: click.ClickException, group: click.Group, arguments: Sequence[str]) -> str | None:
    """A line to type, or None."""
    if isinstance(error, click.NoSuchOption):
        return (
            suggestion(group, arguments) or _of_other_commands(error, group) or _known(error.option_name, arguments)
        )
    if isinstance(error, click.MissingParameter):
        if error.param is None:
            return None
        if isinstance(error.param.type, click.Choice) and error.ctx is not None:
            return f"{error.ctx.command_path} {error.param.type.choices[0]}"
        return suggestion(group, arguments) if {"--output", "--idle"} & set(error.param.opts) else None
    if not isinstance(error, click.UsageError) or isinstance(error, click.BadParameter):
        return None
    if found := re.match(r"No such command '(.*)'", error.message):
        return _hint_for_word(found[1], group, arguments)
    if "unexpected extra argument" not in error.message:
        return None
    return _hint_for_number(arguments) or suggestion(group, arguments)


def _hint_for_word(word: str, group: click.Group, arguments: Sequence[str]) -> str | None:
    return _hint_for_number(arguments) or suggestion(group, arguments) or _known(word, arguments)


def _hint_for_number(arguments: Sequence[str]) -> str | None:
    """Both lines for a number alone, which may be a port or a process: `tcpwatch 3306`, `tcpwatch end 3306`."""
    *command, number = arguments
    if not (number.isascii() and number.isdecimal()) or (command and command not in _WITH_FILTERS):
        return None
    words = " ".join([*(["sudo"] if os.geteuid() != 0 else []), "tcpwatch", *command])
    return f"{words} --port {number}, or {words} --pid {number}"


def _of_other_commands(error: click.NoSuchOption, group: click.Group) -> str | None:
    """Which commands have the option that this one lacks."""
    commands = [("tcpwatch without a command", group), *group.commands.items()]
    owners = [name for name, command in commands for each in command.params if error.option_name in each.opts]
    path = error.ctx.command_path if error.ctx is not None else "tcpwatch"
    return f"{error.option_name} is an option of {', '.join(owners)}; see {path} --help" if owners else None


def _known(word: str, arguments: Sequence[str]) -> str | None:
    return _HINTS_FOR_OTHERS.get(word) if len(arguments) == 1 else None

"""Errors of click, which parses the command line, with hints."""

from __future__ import annotations

import re
import shlex

import click

from tracer.model.errors import UsageError

_HINTS_FOR_OTHERS = {
    "-r": "tcpwatch replay FILE",
    "-i": "tcpwatch traces every interface: leave -i out, or filter with --host or --netns",
    "-n": "tcpwatch prints numbers: leave -n out",
    "-nn": "tcpwatch prints numbers: leave -nn out",
    "-t": "tcpwatch traces TCP only: leave -t out",
    "-c": "tcpwatch --duration 10m",
    "-o": "tcpwatch record -o FILE",
    "-V": "tcpwatch --version",
    "-f": "tcpwatch --pid PID",
    "-P": "tcpwatch --pid PID",
    "help": "tcpwatch --help",
    "version": "tcpwatch --version",
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
    "list": "tcpwatch sockets",
    "ss": "tcpwatch sockets",
    "start": "tcpwatch",
    "trace": "tcpwatch",
}
"""Options and words of ss, tcpdump and strace, and the tcpwatch command for each."""


def usage_error(error: click.ClickException) -> UsageError:
    """The usage error for an error of click, with a hint."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"{context.command_path if context is not None else 'tcpwatch'} --help"
    if isinstance(error, click.NoSuchOption):
        hint = _HINTS_FOR_OTHERS.get(error.option_name, hint)
    elif isinstance(error, click.UsageError) and (found := re.match(r"No such command '(.*)'", error.message)):
        hint = _hint_for_command(found[1], hint)
    return UsageError(error.format_message(), hint=hint)


def _hint_for_command(word: str, hint: str) -> str:
    if word.isascii() and word.isdecimal():
        return f"tcpwatch --port {word}, or tcpwatch --pid {word}"
    if "/" in word or word.endswith((".tw", ".gz", ".zst")):
        return f"tcpwatch replay {shlex.quote(word)}"
    return _HINTS_FOR_OTHERS.get(word, hint)

"""Options that several commands share: FILTERS, the output format, how to trace."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from tracer.cli import types
from tracer.cli.netns import NAMESPACES
from tracer.cli.quantities import shortened
from tracer.model.errors import UsageError
from tracer.model.filters import Filter
from tracer.model.kinds import EVENTS

Command = TypeVar("Command", bound=Callable[..., Any])

_FILTERS = (
    click.option("-p", "--port", "ports", multiple=True, metavar="PORT[,…]", type=types.PORTS,
                 help="Port of either end: number, name or range (3306-3310)."),
    click.option("--lport", "lports", multiple=True, metavar="PORT[,…]", type=types.PORTS,
                 help="Local port."),
    click.option("--rport", "rports", multiple=True, metavar="PORT[,…]", type=types.PORTS,
                 help="Remote port."),
    click.option("--host", "hosts", multiple=True, metavar="ADDR|CIDR|NAME[,…]", type=types.HOSTS,
                 help="Address, CIDR block or host name of either end. A name is resolved once."),
    click.option("-4", "ipv4", is_flag=True, help="IPv4 only, v4-mapped addresses included."),
    click.option("-6", "ipv6", is_flag=True, help="IPv6 only."),
    click.option("--pid", "pids", multiple=True, metavar="PID[,…]", type=types.PIDS,
                 help="Sockets held by this process."),
    click.option("--comm", "comms", multiple=True, metavar="NAME[,…]", type=types.COMMS,
                 help="Sockets held by processes or programs of this name."),
    click.option("--container", "containers", multiple=True, metavar="NAME|ID[,…]", type=types.NAMES,
                 help="Sockets of this container: name, or 12 characters of its id or more."),
    click.option("--pod", "pods", multiple=True, metavar="NAME[,…]", type=types.NAMES,
                 help="Sockets of this Kubernetes pod: NAME or NAMESPACE/NAME ('web-*' for several)."),
    click.option("--unit", "units", multiple=True, metavar="UNIT[,…]", type=types.UNITS,
                 help="Sockets of this systemd unit: nginx, or worker@3.service."),
    click.option("--netns", multiple=True, metavar="NETNS[,…]", type=NAMESPACES,
                 help="Network namespace: inode, name or path."),
)  # fmt: skip
_EVENTS = (
    click.option("-e", "--event", "events", multiple=True, metavar="EVENT[,…]", type=types.EVENT_KINDS,
                 help=f"Only these events: {', '.join(EVENTS)}."),
    click.option("--min-idle", metavar="DURATION", type=types.DURATION,
                 help="Only events of connections with a peer silent for at least DURATION (90s, 10m, 1h30m)."),
)  # fmt: skip


def _no_events(context: click.Context, option: click.Parameter, events: tuple[object, ...]) -> tuple[object, ...]:
    """Refuse -e: the command is about connections as they are now."""
    if events and not context.resilient_parsing:
        raise UsageError(
            f"--event cannot be used with {context.info_name}", hint=f"tcpwatch {context.info_name}, without -e"
        )
    return ()


_CONNECTIONS = (
    click.option("-e", "--event", "events", multiple=True, hidden=True, callback=_no_events),
    click.option("--min-idle", metavar="DURATION", type=types.DURATION,
                 help="Only connections with a peer silent for at least DURATION (90s, 10m, 1h30m)."),
)  # fmt: skip


def _any_interface(context: click.Context, option: click.Parameter, interface: str | None) -> None:
    """Accept `-i any`. Connections are not bound to another interface, so its name is refused."""
    if interface in (None, "any") or context.resilient_parsing:
        return
    from tracer.cli.habits import suggestion

    root = context.find_root()
    line = suggestion(root.command, root.obj) if isinstance(root.command, click.Group) and root.obj else None
    more = " --host 127.0.0.0/8,::1" if interface == "lo" else " (for fewer connections: --host or --netns)"
    raise UsageError(
        f"tcpwatch traces connections of all interfaces: -i {shortened(str(interface))} cannot be used",
        hint=f"{line or 'tcpwatch'}{more}",
    )


_HABITS = (
    click.option("-n", is_flag=True, hidden=True, expose_value=False),  # names are never resolved
    click.option("-i", "interface", hidden=True, expose_value=False, callback=_any_interface),
)
"""Options of tcpdump that change nothing here."""

FILTER_NAMES = (
    "ports", "lports", "rports", "hosts", "ipv4", "ipv6", "pids", "comms", "containers", "pods", "units",
    "netns", "events", "min_idle",
)  # fmt: skip

duration_option = click.option(
    "--duration", metavar="DURATION", type=types.DURATION, help="Stop after DURATION (90s, 10m, 1h30m)."
)
resume_option = click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Trace received segments, to report recoveries at once and idle periods that were survived.",
)
all_option = click.option(
    "-a",
    "--all",
    "shows_all",
    is_flag=True,
    help="Also show healthy connections opening and closing, and stalls that nobody waits for.",
)
verbose_option = click.option(
    "-v", "--verbose", "is_verbose", is_flag=True, help="Show every sentence about a stall, and all advice."
)
buffer_option = click.option(
    "--buffer-size",
    "ring_bytes",
    metavar="SIZE",
    default="8M",
    show_default=True,
    type=types.BUFFER_SIZE,
    help="Size of the kernel buffer for events, 64k to 1G.",
)


html_option = click.option(
    "--html",
    metavar="FILE",
    type=click.Path(path_type=Path, readable=False),
    help="Write the report as an HTML page to FILE, with drawings; - for standard output.",
)


def filter_options(command: Command) -> Command:
    """Add the FILTERS. The command gets them as options; `make_filter` turns these into a Filter."""
    return _add(command, (*_FILTERS, *_EVENTS, *_HABITS))


def connection_filter_options(command: Command) -> Command:
    """Add the FILTERS of a command that reads no events, but connections as they are now."""
    return _add(command, (*_FILTERS, *_CONNECTIONS, *_HABITS))


def _add(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def make_filter(options: dict[str, Any]) -> Filter:
    """Remove the FILTERS from the options of a command. Raises UsageError if no connection can pass them."""
    given = {name: options.pop(name) for name in FILTER_NAMES}
    if given["ipv4"] and given["ipv6"]:
        raise UsageError("-4 and -6 are mutually exclusive", hint="leave both out to see both")
    wanted = Filter(
        ports=frozenset(_values(given["ports"])),
        lports=frozenset(_values(given["lports"])),
        rports=frozenset(_values(given["rports"])),
        hosts=_values(given["hosts"]),
        family=4 if given["ipv4"] else 6 if given["ipv6"] else None,
        netns=frozenset(_values(given["netns"])),
        pids=frozenset(_values(given["pids"])),
        comms=frozenset(_values(given["comms"])),
        containers=frozenset(_values(given["containers"])),
        pods=frozenset(_values(given["pods"])),
        units=frozenset(_values(given["units"])),
        events=frozenset(_values(given["events"])),
        min_idle_ms=None if given["min_idle"] is None else max(1, round(given["min_idle"] * 1000)),
        typed={name: texts for name in ("hosts", "netns") if (texts := _texts(given[name]))},
    )
    _require_possible(wanted)
    return wanted


def make_live_filter(options: dict[str, Any], *, resume: bool) -> Filter:
    """`make_filter` for a live run, which has no resume events with --no-resume."""
    wanted = make_filter(options)
    if not resume and "resume" in wanted.events:
        raise UsageError("--event resume and --no-resume are mutually exclusive", hint="leave --no-resume out")
    return wanted


def cli_filter(arguments: list[str]) -> Filter:
    """The filter of FILTERS as they are typed, without a command."""
    command = filter_options(click.command()(lambda **options: make_filter(options)))
    wanted = command.main(arguments, standalone_mode=False)
    assert isinstance(wanted, Filter)
    return wanted


def format_options(formats: Iterable[str]) -> Callable[[Command], Command]:
    """Add --format with these names, --json, and --markdown if it is among them.

    The command gets the chosen name as `output_format`.
    """
    names = list(formats)
    short = [name for name in ("markdown", "json") if name in names]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(*arguments: Any, format_name: str | None, **options: Any) -> Any:
            flags = [name for name in short if options.pop(f"as_{name}")]
            return command(*arguments, output_format=_chosen(format_name, flags), **options)

        for option in (
            *(click.option(f"--{name}", f"as_{name}", is_flag=True, help=f"Short for --format {name}.")
              for name in short),
            click.option("--format", "format_name", type=click.Choice(names, case_sensitive=False),
                         help=_FORMAT_HELP[tuple(short)]),
        ):  # fmt: skip
            run = option(run)
        return run  # type: ignore[return-value]

    return decorate


_FORMAT_HELP = {
    ("json",): "Output format: text for people, json for programs (docs/events.md).  [default: text]",
    ("markdown", "json"): "Output format: text for people, markdown to paste into a ticket, json for programs "
    "(docs/events.md).  [default: text]",
}


def _chosen(format_name: str | None, flags: Sequence[str]) -> str:
    """The format of --format, or of a flag such as --json. Raises UsageError for two formats."""
    typed = {f"--{name}": name for name in flags}
    if format_name is not None:
        typed[f"--format {format_name}"] = format_name
    if len(set(typed.values())) > 1:
        raise UsageError(f"{' and '.join(typed)} are mutually exclusive", hint=list(typed)[-1])
    return next(iter(typed.values()), "text")


def _values(lists: tuple[tuple[types.Word[Any], ...], ...]) -> tuple[Any, ...]:
    """The values of an option that was given several times."""
    return tuple(value for words in lists for word in words for value in word.values)


def _texts(lists: tuple[tuple[types.Word[Any], ...], ...]) -> tuple[str, ...]:
    """The values of an option as they were typed."""
    return tuple(word.text for words in lists for word in words)


def _require_possible(wanted: Filter) -> None:
    """Raise UsageError for filters that no connection can pass."""
    if wanted.hosts and wanted.family is not None and all(host.version != wanted.family for host in wanted.hosts):
        raise UsageError(
            f"-{wanted.family} and --host {wanted.typed['hosts'][0]} are mutually exclusive",
            hint=f"leave -{wanted.family} out",
        )
    # One end has a port of --port. With --lport and --rport both ends are given, so one of these must be in --port.
    ends = wanted.lports | wanted.rports
    if wanted.ports and wanted.lports and wanted.rports and wanted.ports.isdisjoint(ends):
        raise UsageError(
            "--port matches neither --lport nor --rport, so no connection can match", hint="leave --port out"
        )

"""`tcpwatch protect`: set keepalive and user timeout on connections that are open."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import click

from tracer.cli import types
from tracer.cli.options import connection_filter_options, duration_option, make_filter
from tracer.cli.screen import columns
from tracer.model.errors import UsageError
from tracer.output.messages import complain, say

if TYPE_CHECKING:
    from tracer.act.announcing import Announcer
    from tracer.model.filters import Filter
    from tracer.model.protection import Outcome, Protection, Result
    from tracer.run.stopping import Stop


@click.command()
@connection_filter_options
@click.option(
    "--idle",
    "idle_s",
    required=True,
    metavar="DURATION",
    type=types.DURATION,
    help="First keepalive probe after this much silence: less than the firewall's idle timeout.",
)
@click.option(
    "--interval",
    "interval_s",
    metavar="DURATION",
    type=types.DURATION,
    help="Time between probes without an answer. Default: the socket's own, at most --idle.",
)
@click.option(
    "--probes",
    metavar="N",
    type=click.IntRange(1, 127),
    help="Unanswered probes that end the connection. Default: the socket's own.",
)
@click.option(
    "--user-timeout",
    "user_timeout_s",
    metavar="DURATION",
    type=types.DURATION,
    help="Let calls fail with ETIMEDOUT when the peer takes no data for this long.",
)
@click.option("--follow", is_flag=True, help="Go on with every new connection, until ^C.")
@duration_option
@click.option("--dry-run", is_flag=True, help="Show what would be set, and set nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each connection (docs/events.md).")
def protect(
    idle_s: float,
    interval_s: float | None,
    probes: int | None,
    user_timeout_s: float | None,
    follow: bool,
    duration: float | None,
    dry_run: bool,
    as_json: bool,
    **filters: Any,
) -> int:
    """Set keepalive on connections that are open, from outside. Requires root.

    Keepalive probes keep the session in firewalls on the path, and end a connection with a dead peer. The processes
    need no restart and do not notice. Keepalive timers that run already are shortened at once, which a sysctl does
    not do.

    No time is made longer: a socket that probes sooner is left as it is. Shows each connection with its settings
    before and after. A filter that names connections is needed.

    With --follow, goes on with every new connection that the filters accept, once a process has it. Values that an
    application sets after that stay. As a service: systemctl enable --now tcpwatch-protect@NAME, with
    OPTIONS=--rport 3306 --idle 4m in /etc/tcpwatch/NAME.conf.

    A user timeout replaces the number of probes. If it is not longer than --idle and --interval together, a single
    lost probe ends an idle connection.

    \b
    Examples:
      sudo tcpwatch protect --rport 3306 --idle 60s --dry-run
      sudo tcpwatch protect --comm php-fpm8.2 --idle 4m --follow
      sudo tcpwatch protect -p 3306 --idle 10s --interval 5s --user-timeout 30s
    """
    wanted = make_filter(filters)
    _require_usable(wanted, follow=follow, dry_run=dry_run, duration=duration)
    protection = _protection(idle_s, interval_s, probes, user_timeout_s)
    from tracer.kernel import host

    host.require_privilege()
    host.require_for("using sockets of other processes", "CAP_SYS_PTRACE")
    _warn(protection)
    from tracer.act.announcing import Announcer
    from tracer.run.interrupts import exit_status_after
    from tracer.run.stopping import discard

    with Announcer(complain=complain) as announcer:
        printed = _Printed(announcer, as_json=as_json)
        if follow:
            from tracer.run.stopping import Stop

            _follow(wanted, protection, Stop(duration, sys.stdout), printed)
            status = 0
        else:
            try:
                status = _once(wanted, protection, printed, dry_run=dry_run)
            except KeyboardInterrupt as error:
                with suppress(OSError):
                    discard(sys.stdout)  # a reader that stalls must not keep it
                printed.say_interrupted()
                return exit_status_after(error)
    printed.say_summary()
    return status


def _require_usable(wanted: Filter, *, follow: bool, dry_run: bool, duration: float | None) -> None:
    """Raise UsageError for options that cannot be followed."""
    from tracer.act.selection import names_connections

    if not names_connections(wanted):
        raise UsageError(
            "protect needs a filter that names connections", hint="tcpwatch protect --rport 3306 --idle 60s --dry-run"
        )
    if follow and dry_run:
        raise UsageError("--follow and --dry-run are mutually exclusive", hint="leave --follow out")
    if follow and wanted.min_idle_ms is not None:
        raise UsageError(
            "--follow and --min-idle are mutually exclusive: a new connection has not been silent",
            hint="leave --min-idle out",
        )
    if duration is not None and not follow:
        raise UsageError("--duration needs --follow", hint="add --follow")


def _protection(
    idle_s: float, interval_s: float | None, probes: int | None, user_timeout_s: float | None
) -> Protection:
    """Raise UsageError for times that the kernel does not take."""
    from tracer.kernel.keepalive import MAX_TIME_S, MAX_USER_TIMEOUT_S
    from tracer.model.protection import Protection

    return Protection(
        idle_s=_whole_seconds("--idle", idle_s, MAX_TIME_S),
        interval_s=None if interval_s is None else _whole_seconds("--interval", interval_s, MAX_TIME_S),
        probes=probes,
        user_timeout_ms=None
        if user_timeout_s is None
        else 1000 * _whole_seconds("--user-timeout", user_timeout_s, MAX_USER_TIMEOUT_S),
    )


def _whole_seconds(name: str, seconds: float, most_s: int) -> int:
    """The whole seconds in it."""
    from tracer.output.format import duration

    if not 1 <= seconds <= most_s:
        raise UsageError(f"{name} must be from 1s to {duration(1000 * most_s)}", hint=f"{name} 60s")
    return int(seconds)


def _warn(protection: Protection) -> None:
    from tracer.act.protection import ends_on_one_probe
    from tracer.model.protection import Settings

    interval_s = protection.idle_s if protection.interval_s is None else protection.interval_s
    if ends_on_one_probe(Settings(True, protection.idle_s, interval_s, 1, protection.user_timeout_ms or 0)):
        say(
            "warning: --user-timeout is not longer than --idle and --interval together, so a single lost keepalive "
            "probe ends an idle connection"
        )


class _Printed:
    """Prints outcomes on standard output, counts them, and sends them to those that trace."""

    def __init__(self, announcer: Announcer, *, as_json: bool) -> None:
        self._announcer = announcer
        self._as_json = as_json
        self._counts: Counter[Result] = Counter()
        self._done: list[Outcome] = []
        self.taken = 0  # connections; one that is closed by the time of its turn has no outcome

    def __call__(self, outcomes: Iterable[Outcome]) -> None:
        """Take all, then print. What was changed until an error is printed, too."""
        try:
            self.take(outcomes)
        finally:
            self.show()

    def take(self, outcomes: Iterable[Outcome]) -> None:
        """Take them for `show`."""
        from tracer.output.protections import as_json as to_line

        for outcome in outcomes:
            self._done.append(outcome)
            self._announcer.add(to_line(outcome))

    def show(self) -> None:
        """Print what was taken."""
        from tracer.output.protections import as_json, as_text

        outcomes, self._done = self._done, []
        if outcomes:
            self._counts.update(outcome.result for outcome in outcomes)
            sys.stdout.writelines(map(as_json, outcomes) if self._as_json else as_text(outcomes, columns(sys.stdout)))
            sys.stdout.flush()

    @property
    def exit_status(self) -> int:
        """1 if a connection could not be reached."""
        from tracer.model.protection import Result

        return int(self._counts[Result.UNREACHABLE] > 0)

    def say_summary(self) -> None:
        """Print the numbers on stderr."""
        from tracer.output.format import plural
        from tracer.output.protections import summary

        if gone := max(0, self.taken - sum(self._counts.values())):
            say(f"left {plural(gone, 'connection')}, which could not be found in the process again")
        if self._counts or not gone:
            say(summary(self._counts) if self._counts else "no connection matches")

    def say_interrupted(self) -> None:
        """Print what is certain when a signal came while sockets were read, or while this was printing."""
        from tracer.output.protections import summary

        say(f"interrupted: {summary(self._counts) if self._counts else 'nothing was changed'}")


def _once(wanted: Filter, protection: Protection, printed: _Printed, *, dry_run: bool) -> int:
    """Returns the exit status."""
    from tracer.act.protecting import protect as protect_each
    from tracer.act.protection import may_be_idle
    from tracer.act.selection import without_closed
    from tracer.kernel.presence import absent
    from tracer.kernel.sockets import read_sockets
    from tracer.model.sockets import longest_silence_first
    from tracer.output.format import plural
    from tracer.run.interrupts import exit_status_after, noting

    found = without_closed(list(filter(may_be_idle, read_sockets(wanted, say))), lambda: read_sockets(wanted))
    found = longest_silence_first(found)
    left = deque(found)
    try:
        with noting() as signals:
            until_signalled = (left.popleft() for _ in takewhile(lambda _: not signals, found))
            printed.take(protect_each(until_signalled, protection, dry_run=dry_run))
    finally:
        printed.taken = len(found) - len(left)
        printed.show()
    if signals and left:
        say(f"interrupted: left {len(left):,} of {plural(len(found), 'connection')} alone")
        return exit_status_after(signals[0])
    for line in absent(wanted):
        say(line)
    return printed.exit_status


def _follow(wanted: Filter, protection: Protection, stop: Stop, printed: _Printed) -> None:
    from tracer.act.following import Opened
    from tracer.act.protecting import protect as protect_each
    from tracer.kernel import privileges
    from tracer.kernel.live import LiveSource
    from tracer.kernel.sockets import HeldSockets
    from tracer.run import systemd

    with (
        LiveSource(wanted, stop, resume=False, say=say, complain=complain) as source,
        HeldSockets(wanted, say) as held,
    ):
        try:
            privileges.keep_only((*source.capabilities, *privileges.TO_WALK))
        except OSError as error:  # forbidden in some sandboxes; it works all the same
            say(f"cannot drop unneeded capabilities: {error.strerror}")
        stop.start_clock()
        say("protecting each connection that is opened; ^C ends it")
        systemd.ready()
        for opened in Opened(held.read, held.chooses).follow(source):
            printed(protect_each(opened, protection))

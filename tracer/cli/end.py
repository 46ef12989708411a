"""`tcpwatch end`: end the connections that hang, or that the filters name."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import click

from tracer.cli.options import connection_filter_options, make_filter
from tracer.cli.screen import as_called, columns
from tracer.model.errors import UsageError
from tracer.output.messages import complain, say, show

if TYPE_CHECKING:
    from tracer.act.ending import Plan
    from tracer.model.filters import Filter


@click.command()
@connection_filter_options
@click.option("--stuck", "only_stuck", is_flag=True, help="Only connections that hang: their peer answers nothing.")
@click.option("--dry-run", is_flag=True, help="Show what would be ended, and end nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each connection (docs/events.md).")
def end(only_stuck: bool, dry_run: bool, yes: bool, as_json: bool, **filters: Any) -> int:
    """End connections, so that calls that hang in them return now. Requires root.

    The blocked call fails with ECONNABORTED, and the peer gets a RST if it can be reached. Data that is not
    acknowledged is lost. An application that reconnects on errors then goes on.

    Shows the connections first, and asks on a terminal. Elsewhere it needs --yes. Ends exactly what it has shown:
    another connection that has taken the same ports meanwhile is left alone, and so is one that no longer hangs.

    --stuck takes the connections that retransmit, probe or connect without an answer. It looks at each one twice. It
    leaves alone those that wait for a reply, because a slow reply looks the same: name these by --lport.

    \b
    Examples:
      sudo tcpwatch end --stuck                      what hangs, after a question
      sudo tcpwatch end --stuck --rport 3306 --yes   for a script
      sudo tcpwatch end --lport 47720 --dry-run      which connection that is
    """
    wanted = make_filter(filters)
    _require_usable(wanted, only_stuck=only_stuck, dry_run=dry_run, yes=yes, as_json=as_json)
    from tracer.act.announcing import Announcer
    from tracer.act.ending import end as end_one
    from tracer.kernel.presence import absent
    from tracer.model.actions import Outcome, Result
    from tracer.output.actions import about_left, outcome_as_json, outcome_as_text, summary
    from tracer.output.format import plural
    from tracer.run.interrupts import exit_status_after, noting

    try:
        plan = _plan(wanted, only_stuck=only_stuck)
    except KeyboardInterrupt as error:
        say("nothing was ended")
        return exit_status_after(error)
    for line in (*about_left(plan.left), *absent(wanted)):
        say(as_called(line))
    if not plan.targets:
        say("nothing to end" if plan.left else "no connection hangs" if only_stuck else "no connection matches")
        return 0
    if not (as_json or dry_run):
        for line in _lines(plan, columns(sys.stderr), grouped=True):
            show(line)
    if not (dry_run or yes) and (refused := _ask(len(plan.targets))):
        say("nothing was ended")
        return refused
    with noting() as signals, Announcer(complain=complain) as announcer:
        outcomes = []
        for target in takewhile(lambda _: not signals, plan.targets):
            outcomes.append(Outcome(target.socket, Result.WOULD_END) if dry_run else end_one(target))
            announcer.add(outcome_as_json(outcomes[-1]))
    try:
        if dry_run and not as_json:
            sys.stdout.writelines(f"{line}\n" for line in _lines(plan, columns(sys.stdout), grouped=False))
        else:
            sys.stdout.writelines(map(outcome_as_json if as_json else outcome_as_text, outcomes))
        sys.stdout.flush()
    finally:
        say(summary(outcomes))
    if signals and (left := len(plan.targets) - len(outcomes)):
        say(f"interrupted: left {left:,} of {plural(len(plan.targets), 'connection')} alone")
        return exit_status_after(signals[0])
    return int(any(outcome.result is Result.UNREACHABLE for outcome in outcomes))


def _require_usable(wanted: Filter, *, only_stuck: bool, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Raise UsageError for options that cannot be followed."""
    from tracer.act.selection import require_names

    require_names(wanted, only_stuck=only_stuck)
    if dry_run and yes:
        raise UsageError("--dry-run and --yes are mutually exclusive", hint="leave --yes out to end nothing")
    if dry_run or yes:
        return
    if as_json:
        raise UsageError("end --json does not ask, so it needs --yes or --dry-run", hint="add --dry-run")
    if not _is_terminal():
        raise UsageError(
            "end asks on a terminal, and here is none; elsewhere it needs --yes", hint="add --yes, or --dry-run"
        )


def _is_terminal() -> bool:
    """Whether a person sees what is shown on stderr, and can answer."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def _plan(wanted: Filter, *, only_stuck: bool) -> Plan:
    from tracer.act.ending import look_again, pause_s, plan
    from tracer.act.selection import select
    from tracer.kernel import host
    from tracer.kernel.processes import ancestors
    from tracer.kernel.sockets import read_sockets
    from tracer.output.format import duration, plural

    found = read_sockets(wanted, say)
    host.require_net_admin()
    made = plan(select(found, only_stuck=only_stuck, ancestors=ancestors(os.getpid())))
    if only_stuck and made.targets:
        seconds = pause_s(made.targets, host.hz())
        count = len(made.targets)
        say(
            f"{plural(count, 'connection')} {'hangs' if count == 1 else 'hang'}: "
            f"looking again in {duration(seconds * 1000)}"
        )
        time.sleep(seconds)
        made = look_again(made)
    return made


def _lines(plan: Plan, width: float, *, grouped: bool) -> Iterator[str]:
    from tracer.output.actions import plan_as_text

    chosen = [(target.reason, target.socket) for target in plan.targets]
    return plan_as_text(chosen, width, grouped=grouped)


def _ask(count: int) -> int:
    """0 for yes, else the exit status."""
    from tracer.output.actions import question
    from tracer.run.interrupts import exit_status_after

    print(question(count), end="", file=sys.stderr, flush=True)
    try:
        answer = sys.stdin.readline()
    except UnicodeDecodeError:  # no yes
        return 1
    except KeyboardInterrupt as error:
        print(file=sys.stderr)
        return exit_status_after(error)
    if not answer.endswith("\n"):
        print(file=sys.stderr)
    return 0 if answer.strip().lower() in ("y", "yes") else 1

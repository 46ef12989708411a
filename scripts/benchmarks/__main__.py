"""The command of scripts/bench."""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import click

from benchmarks import plot, results, table
from benchmarks.processes import ROOT
from benchmarks.results import Result
from benchmarks.rows import ROWS
from benchmarks.scale import Scale
from tracer.model.errors import TcpwatchError

DOCUMENT = ROOT / "docs/performance.md"
PICTURE = ROOT / "docs/growth.png"
_DRAWN = ("connections", "events")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("rows", metavar="[ROW]…", nargs=-1, type=click.Choice(list(ROWS)))
@click.option("--quick", is_flag=True, help="Rough figures in a few minutes.")
@click.option(
    "--json", "output", type=click.Path(path_type=Path, dir_okay=False), help="All that was measured, as JSON."
)
@click.option("--write", is_flag=True, help="Rewrite the tables in docs/performance.md.")
def main(rows: tuple[str, ...], quick: bool, output: Path | None, write: bool) -> None:
    """Measure what tcpwatch costs, beside other tools and against its budgets. Needs root.

    \b
    ROW is one of
      mariadb, redis, storm  how much slower a workload is while it is watched
      hooks      nanoseconds of each hook in the kernel
      cpu        processor time of an event
      start      from the start to the first event
      memory     after the start
      capacity   events a second without loss
      delay      from the kernel's stamp to the line
      crowd      the same on a host with thousands of processes, sockets and network namespaces
      replay     recordings: events a second, memory
      hosts      one report of many hosts: two processors beside one, outputs of report --json
      sockets    `tcpwatch sockets` beside `ss -tinop`
      walk       the walks over all sockets, for `found` and `waiting`
      owners     who holds a socket
      connections, events  how it grows with the number of them
    Without one, all of them. Nothing else should run meanwhile. The picture of the growth is drawn where both its
    rows are measured at once.
    """
    if os.geteuid() != 0:
        raise TcpwatchError("the bench loads BPF programs and makes network namespaces", hint="sudo scripts/bench")
    signal.signal(signal.SIGTERM, _terminate)
    # A shell has those in the background ignore ^C, and they would hand that down to all that is stopped by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    done: list[Result] = []
    try:
        for row in rows or ROWS:
            began = time.monotonic()
            result = ROWS[row](Scale(quick))
            result.notes.append(_conditions(quick=quick))
            print(f"{table.as_text(result)}  ({time.monotonic() - began:.0f} s)\n", flush=True)
            done.append(result)
    finally:
        # What was measured is kept, whatever came then.
        if output is not None and done:
            output.write_text(json.dumps(results.as_json(done, _host()), indent=1) + "\n", encoding="utf-8")
        if write and done:
            _write(done)


def _write(done: Sequence[Result]) -> None:
    table.write(done, DOCUMENT)
    drawn = [each for each in done if each.name in _DRAWN]
    if len(drawn) == len(_DRAWN):
        plot.draw(drawn, PICTURE)


def _conditions(*, quick: bool) -> str:
    release = ".".join(platform.release().split(".")[:2])
    hurry = ", --quick: rough figures" if quick else ""
    return f"Linux {release}, {platform.machine()}, {os.cpu_count()} processors{hurry}"


def _host() -> dict[str, object]:
    return {"kernel": platform.release(), "machine": platform.machine(), "cpus": os.cpu_count()}


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        main(prog_name="scripts/bench", standalone_mode=False)
    except TcpwatchError as error:
        print(f"bench: {error}", file=sys.stderr)
        if error.hint:
            print(f"Hint: {error.hint}", file=sys.stderr)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)

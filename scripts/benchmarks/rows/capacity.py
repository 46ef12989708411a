"""How many events a second are recorded without loss."""

from __future__ import annotations

import os
import pty
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import sweeping
from benchmarks.processes import TCPWATCH, dies_with_us, wait_until_idle
from benchmarks.results import Cell, Line, Result, at_least
from benchmarks.scale import Scale
from benchmarks.watchers import BPFTRACE, TCPSTATES, TCPWATCH_PORT, Peer, Target, Watcher, Watchers, counts, watchers
from benchmarks.workloads import PORT, load, loopback
from tracer.kernel.layout import SIZE
from tracer.kernel.program.program import RING_BYTES
from tracer.kernel.program.ring import HEADER_BYTES
from tracer.lab.peers import Client

BUDGET = 100_000
"""Events a second, recorded by tcpwatch on one processor."""
_OURS, _THEIRS = 9, 10
"""Events of a connection, both ends together. tcpwatch leaves the one out in which a listener's child is born."""
_STEP = 0.9
_TRIES = 2
"""At each rate: a virtual machine stands still now and then for longer than the ring holds events."""


@dataclass(frozen=True)
class Mode:
    """A watcher and where its output goes: a `file`, `null`, a `pipe`, a `terminal`. each: events of a connection."""

    name: str
    argv: Callable[[Path], Sequence[str]]
    output: str = "null"
    each: int = _OURS
    peer: Peer = TCPWATCH_PORT


def _tcpwatch(*options: str) -> Callable[[Path], Sequence[str]]:
    return lambda _: [*TCPWATCH, "--port", str(PORT), *options]


def _record(name: str) -> Callable[[Path], Sequence[str]]:
    return lambda directory: [*TCPWATCH, "record", "--port", str(PORT), "-o", str(directory / name)]


def _peer(peer: Peer) -> Mode:
    return Mode(f"{peer.name}, file", lambda _: peer.argv(Target(PORT, os.getpid())), "file", _THEIRS, peer)


MODES = (
    Mode("tcpwatch record, file", _record("storm.tw")),
    Mode("tcpwatch record, .gz file", _record("storm.tw.gz")),
    Mode("tcpwatch --json, /dev/null", _tcpwatch("--json")),
    Mode("tcpwatch --json, pipe", _tcpwatch("--json"), "pipe"),
    Mode("tcpwatch, file", _tcpwatch(), "file"),
    Mode("tcpwatch, terminal", _tcpwatch(), "terminal"),
)
PEERS = (TCPSTATES, BPFTRACE)


@dataclass(frozen=True)
class Run:
    """offered, handled: events a second, that happened and that were shown until the last one was."""

    offered: float
    handled: float
    happened: int
    lost: int


def capacity(scale: Scale) -> Result:
    """Flood each output first, then lower the rate until nothing is lost."""
    lines = []
    flood_s, try_s = _seconds(scale)
    with watchers() as started, loopback() as namespace:
        usable = started.usable(PEERS, Target(PORT, os.getpid()))
        generating, watching = _processors()
        with (
            load(namespace, "sink", PORT, before=generating),
            load(namespace, "empty", PORT, before=generating) as client,
        ):
            for mode in (*MODES, *map(_peer, usable)):
                lines.append(_line(mode, started, client, watching, scale))
    notes = [
        "empty connections on loopback make the events: "
        + (
            "the watcher has one processor, they have the other"
            if watching
            else "they and the watcher share a processor"
        ),
        f"flooded: as many as come in {flood_s:g} s; without loss: the highest rate tried that lost nothing in "
        f"{try_s:g} s, in one of {_TRIES} tries, each rate a tenth below the one before, down to half",
        f"tcpwatch's ring buffer holds some {RING_BYTES // (HEADER_BYTES + SIZE):,} events",
    ]
    return Result("capacity", "events a second", "output", lines, notes + started.notes(PEERS))


def _processors() -> tuple[list[str], list[str]]:
    """What to run the generator with, and the watcher: a processor each, where there are two."""
    first, *others = sorted(os.sched_getaffinity(0))
    return (["taskset", "-c", str(first)], ["taskset", "-c", str(others[0])]) if others else ([], [])


def _seconds(scale: Scale) -> tuple[float, float]:
    """Of the flood, and of each try at a lower rate."""
    return scale.of((15.0, 15.0), (2.0, 3.0))


def _line(mode: Mode, started: Watchers, client: Client, watching: Sequence[str], scale: Scale) -> Line:
    flood_s, try_s = _seconds(scale)

    def run(seconds: float, rate: float | None) -> Run:
        return _run(mode, started, client, watching, seconds, rate)

    flood = tried = run(flood_s, None)
    rate = flood.handled
    while tried.lost and rate > flood.handled / 2:
        for _ in range(_TRIES):
            tried = run(try_s, rate / mode.each)
            if not tried.lost:
                break
        rate *= _STEP
    best = 0 if tried.lost else tried.offered
    without_loss: Cell = best if flood.lost else f"> {best:,.0f}, as many as came"
    verdict = _verdict(best, flood.lost) if mode == MODES[0] else ""
    cells: dict[str, Cell] = {
        "without loss, events/s": without_loss,
        "flooded: shown, events/s": flood.handled,
        "flooded: offered, events/s": flood.offered,
        "flooded: lost, %": 100 * flood.lost / flood.happened,
    }
    return Line(mode.name, cells, verdict)


def _verdict(best: float, lost: int) -> str:
    """Of the rate without loss; lost: by the flood. What comes no faster tells of no limit."""
    if best < BUDGET and not lost:
        return f"unclear: all of {best:,.0f}/s, and no more came"
    return at_least(best, BUDGET, "/s")


def _run(
    mode: Mode, started: Watchers, client: Client, watching: Sequence[str], seconds: float, rate: float | None
) -> Run:
    with sweeping.temporary_directory() as directory, _output(mode.output) as output:
        before = [*watching, *(started.lent if mode.peer.bpf else ())]
        with Watcher(mode.argv(directory), mode.peer.ready, directory, before=before, output=output) as watcher:
            began = time.monotonic()
            answer = client.ask(f"for {seconds} {rate or ''}", timeout_s=seconds * 10 + 60)
            shown = wait_until_idle(watcher.pid)
            summary = counts(watcher.stop())
            events = summary.events if summary else watcher.printed().count(f"{PORT}")
    happened = answer["count"] * mode.each
    return Run(
        offered=happened / answer["seconds"],
        handled=events / (shown - began),
        happened=happened,
        lost=summary.lost if summary else max(0, happened - events),
    )


@contextmanager
def _output(kind: str) -> Iterator[int | None]:
    """A descriptor for stdout and a thread that reads it; None for a file."""
    if kind == "file":
        yield None
        return
    if kind == "null":
        with Path(os.devnull).open("wb") as null:
            yield null.fileno()
        return
    read_end, write_end = os.pipe() if kind == "pipe" else pty.openpty()
    reader = subprocess.Popen(
        dies_with_us(["cat"]), stdin=read_end, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(read_end)
    try:
        yield write_end
    finally:
        os.close(write_end)
        reader.kill()
        reader.wait()

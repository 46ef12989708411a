"""`tcpwatch report`: the files by host, read on all cores, and merged into one report.

Files of one host that follow each other are a group, because a stall may begin in one and end in the next. Each group
is read by itself, into a state of its own. The states are merged in the order of the files, so it does not matter
which process read a group: the report is the same, byte for byte.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import field, replace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tracer.analysis.idle_timeouts import IdleTimeouts
from tracer.analysis.silence_marks import SilenceMarks
from tracer.model.dataclass import dataclass
from tracer.model.errors import TcpwatchError
from tracer.model.filters import Filter
from tracer.model.threads import HINT, can_start
from tracer.model.window import Window
from tracer.output.html.report import HtmlReport
from tracer.output.report import Report
from tracer.output.report_reader import NewerReport, ReportLines
from tracer.output.report_state import Collector, Lines, ReportState
from tracer.recordings.input import Damaged, EndlessLine
from tracer.recordings.reader import ReportOutput
from tracer.recordings.series_order import header_of, in_order
from tracer.run.interrupts import interrupted_by
from tracer.run.pipeline import Totals
from tracer.run.replay import Missing, Player

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor

MIN_BYTES_OF_A_WORKER = 2_000_000
"""Fewer bytes are read before another process would have started. Each process takes memory of its own."""
_PATIENCE_S = 1.0
"""How often a wait for a process looks whether it is in vain."""
_HELD = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that do not come while a process starts."""
_AHEAD = 2
"""Groups that are read ahead for each process: their states wait in memory."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How files become a state: what a process needs to know to read them.

    has_evidence, has_timeline, has_lines: what the report shows. here: this host's name. has_hosts: there may be
    several hosts.
    """

    wanted: Filter
    window: Window
    here: str
    has_evidence: bool = False
    has_timeline: bool = False
    has_lines: bool = False
    has_hosts: bool = False

    def state(self) -> ReportState:
        """The state of nothing."""
        idle_timeouts = SilenceMarks() if self.has_timeline or self.has_lines else IdleTimeouts()
        state = ReportState(
            idle_timeouts,
            here=self.here,
            is_filtered=not self.wanted.keeps_counts,
            window=self.window,
            has_evidence=self.has_evidence,
            has_timeline=self.has_timeline,
        )
        state.data.two_ends.coverages.is_filtered = self.wanted.chooses_events or bool(self.window)
        state.data.two_ends.is_active = self.has_hosts or self.has_lines
        return state


@dataclass(slots=True)
class _Read:
    """A group that another process has read. messages: in their order. lines: the file with the lines."""

    state: ReportState
    messages: list[str | Missing] = field(default_factory=list)
    lines: Path | None = None


def read(
    files: Sequence[Path],
    reading: Reading,
    report: Report | HtmlReport,
    *,
    warn: Callable[[str], None],
    missing: Callable[[Missing], None],
) -> None:
    """Read the files into the report, and close it, also if reading is interrupted."""
    groups = grouped(in_order(files))
    reading = replace(reading, has_hosts=len(groups) > 1)
    workers = _workers_for(files, len(groups))
    try:
        if workers > 1:
            _read_in_parallel(groups, workers, reading, report, warn, missing)
        else:
            later = sum(map(len, groups))
            for group in groups:
                later -= len(group)
                _read_here(group, reading, report, warn, missing, later)
    finally:
        report.close()


def grouped(files: Sequence[Path]) -> list[list[Path]]:
    """The files that have to be read one after the other: all of them where one is listed twice."""
    identities = [_identity(file) for file in files]
    known = [each for each in identities if each is not None]
    if len(set(known)) < len(known):
        return [list(files)]
    places = groupby(range(len(files)), key=lambda place: _host_of(files[place]) or place)
    return [[files[place] for place in group] for _, group in places]


def _host_of(file: Path) -> str:
    header = header_of(file)
    return "" if header is None else header.host


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _workers_for(files: Sequence[Path], groups: int) -> int:
    """The number of processes that read: one for each core, if there is enough to read."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return min(cores, groups, _size_of(files) // MIN_BYTES_OF_A_WORKER)


def _size_of(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files if _identity(file) is not None)


def _read_here(
    group: Sequence[Path],
    reading: Reading,
    report: Report | HtmlReport,
    warn: Callable[[str], None],
    missing: Callable[[Missing], None],
    later: int,
) -> None:
    state = reading.state()
    try:
        _read_group(group, reading, state, report.lines, warn, missing, later)
    finally:
        report.state.merge(state)


def _read_group(
    group: Sequence[Path],
    reading: Reading,
    state: ReportState,
    lines: Lines | None,
    warn: Callable[[str], None],
    missing: Callable[[Missing], None],
    later: int,
) -> None:
    collector = Collector(state, lines)
    totals = Totals()

    def note(what: Missing) -> None:
        collector.missing(what.file, what.reason, what.until_ns, is_failure=what.is_failure)
        missing(what)

    try:
        Player(
            reading.wanted,
            [collector],
            warn=warn,
            missing=note,
            idle_timeouts=state.data.idle_timeouts,
            ends_only=not (reading.has_timeline or reading.has_lines),
            command="report",
            totals=totals,
            window=reading.window,
            reports=lambda found: _take_report(found, reading, collector, note),
            later=later,
        ).play(group)
    finally:
        state.unfollowed += totals.unfollowed


def _take_report(
    found: ReportOutput, reading: Reading, collector: Collector, missing: Callable[[Missing], None]
) -> None:
    """Add the output of `report --json` to the collector."""
    wrong = _unfit(reading)
    if wrong:
        again = "apply it when that report is made: tcpwatch report RECORDING --json"
        missing(Missing(found.file, f"the output of report --json, {wrong}", again, None, is_all=True))
        return
    reports = ReportLines(collector)
    first_damage, damaged, number = "", 0, 0
    try:
        for line in found.lines:
            if not line:
                continue
            number += 1
            try:
                reports.take(line)
            except NewerReport:
                raise
            except (ValueError, RecursionError) as error:
                damaged += 1
                first_damage = first_damage or f"line {number} is damaged ({error})"
    except NewerReport as error:
        missing(Missing(found.file, str(error), "upgrade tcpwatch to read it; tcpwatch --version", None))
        return
    except (Damaged, EndlessLine, OSError, EOFError) as error:
        rest = found.source.unreadable_rest(error, number + 1)
        missing(Missing(found.file, rest.reason, rest.hint, None))
        return
    if damaged:
        others = f", as are {damaged - 1:,} later ones" if damaged > 2 else ", as is a later one" * (damaged - 1)
        missing(Missing(found.file, f"{first_damage}; skipped{others}", "make that report again", None))
    if not reports.is_complete:
        reason = "its summary is missing: tcpwatch report --json was interrupted"
        missing(Missing(found.file, reason, "make that report again", None))


def _unfit(reading: Reading) -> str:
    """Why the output of `report --json` cannot be read so; empty where it can."""
    if reading.window:
        return "to which --since and --until cannot be applied"
    if reading.wanted != Filter():
        return "to which filters cannot be applied"
    return "which has no evidence of single segments" if reading.has_evidence else ""


def _read_in_parallel(
    groups: Sequence[Sequence[Path]],
    workers: int,
    reading: Reading,
    report: Report | HtmlReport,
    warn: Callable[[str], None],
    missing: Callable[[Missing], None],
) -> None:
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import active_children, get_context

    later = sum(map(len, groups))
    threads = threading.active_count()
    with TemporaryDirectory(prefix="tcpwatch-") as directory:
        pool = ProcessPoolExecutor(workers, get_context("fork"), _in_a_worker)
        rest = [file for group in groups for file in group]
        try:
            for group, future in _submitted(pool, groups, workers, reading, Path(directory), warn):
                later -= len(group)
                done = None if future is None else _result_of(future, threads)
                if done is None:
                    _read_here(group, reading, report, warn, missing, later)
                else:
                    _take(done, report, warn, missing)
                del rest[: len(group)]
        except KeyboardInterrupt as error:
            more = f", and {len(rest) - 1:,} more FILE{'' if len(rest) == 2 else 's'}" if len(rest) > 1 else ""
            if report.state.data.hosts or report.lines is None:
                note = Missing(f"{rest[0]}{more}", f"interrupted by {interrupted_by(error)}", "", None)
                report.missing(note.file, note.reason, note.until_ns, is_failure=note.is_failure)
                missing(note)
            raise
        except BrokenProcessPool as error:
            raise TcpwatchError(
                f"the process that read {rest[0]} was killed", hint="dmesg | grep -i 'out of memory'"
            ) from error
        finally:
            for child in active_children():
                child.kill()
            with suppress(RuntimeError):  # its own thread could not be started
                pool.shutdown(wait=True, cancel_futures=True)


def _submitted(
    pool: ProcessPoolExecutor,
    groups: Sequence[Sequence[Path]],
    workers: int,
    reading: Reading,
    directory: Path,
    warn: Callable[[str], None],
) -> Iterator[tuple[Sequence[Path], Future[_Read] | None]]:
    """Each group with its result to come; None for one that only this process can read, such as a pipe."""
    ahead: deque[tuple[Sequence[Path], Future[_Read] | None]] = deque()
    can_start = True
    for number, group in enumerate(groups):
        future = None
        lines = directory / f"{number}" if reading.has_lines else None
        if can_start and all(_identity(file) is not None for file in group):
            try:
                with _signals_held():
                    future = pool.submit(_read_elsewhere, group, reading, lines)
            except (OSError, RuntimeError):  # as many processes or threads as this user or container may have
                can_start = False
                warn(f"one process reads all files, because no other can be started ({HINT})")
        ahead.append((group, future))
        if len(ahead) > _AHEAD * workers:
            yield ahead.popleft()
    yield from ahead


def _result_of(future: Future[_Read], threads: int) -> _Read | None:
    """Wait for it. None if it never comes, because a thread of the pool could not be started.

    threads: how many there were before the pool. Raises BrokenProcessPool if a process was killed.
    """
    from concurrent.futures import TimeoutError as FutureTimeout
    from concurrent.futures.process import BrokenProcessPool

    try:
        while threading.active_count() > threads:
            with suppress(FutureTimeout):
                return future.result(_PATIENCE_S)
        return future.result() if future.done() else None
    except BrokenProcessPool as error:
        if error.__cause__ is None:
            raise
        return None  # since Python 3.12, a thread that cannot be started breaks the pool, and is the cause


def _take(
    done: _Read, report: Report | HtmlReport, warn: Callable[[str], None], missing: Callable[[Missing], None]
) -> None:
    for message in done.messages:
        missing(message) if isinstance(message, Missing) else warn(message)
    if done.lines is not None and report.lines is not None:
        if done.state.data.hosts:
            report.lines.begin()
        with done.lines.open() as lines:
            for line in lines:
                report.lines.write_text(line)
        done.lines.unlink()
    report.state.merge(done.state)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold signals back while processes start. One that comes before a handler is replaced would be lost."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_a_worker() -> None:
    """^C ends the workers through the process that started them, and they end with it, even after kill -9."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
    can_start(threading.Thread(target=_end_with_parent, daemon=True))


def _end_with_parent() -> None:
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _read_elsewhere(group: Sequence[Path], reading: Reading, lines: Path | None) -> _Read:
    """Read a group in a worker."""
    done = _Read(reading.state(), lines=lines)

    def warn(text: str) -> None:
        done.messages.append(text)

    if lines is None:
        _read_group(group, reading, done.state, None, warn, done.messages.append, 0)
    else:
        with lines.open("w") as stream:
            _read_group(group, reading, done.state, Lines.of_a_part(stream), warn, done.messages.append, 0)
    return done

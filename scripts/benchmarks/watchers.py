"""Start tcpwatch and other tools that watch connections, wait until they are ready, and end them."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from benchmarks import surroundings, sweeping
from benchmarks.processes import ROOT, TCPWATCH, dies_with_us, environment
from tracer.model.errors import TcpwatchError

READY_S = 60
_END_S = 30
_ERROR = re.compile(r"Unable|ERROR|\w*(Error|Exception)\b")
_SUMMARY = re.compile(r"tcpwatch: ([\d,]+) events?(?: \([\d,]+ not shown\))?, ([\d,]+) lost")


class CannotRun(TcpwatchError):
    """A watcher does not work on this host; the message is its own error."""


@dataclass(frozen=True)
class Target:
    """What to watch: a port, and a process of the namespace, for tracers of system calls."""

    port: int
    pid: int


@dataclass(frozen=True)
class Peer:
    """A program to be compared. ready: what it prints when it is attached. bpf: it wants what is lent to BPF tools.

    prints: whether connections to a port are lines with that number on its stdout.
    """

    name: str
    argv: Callable[[Target], Sequence[str]]
    ready: str
    bpf: bool = False
    prints: bool = True


# bpftrace prints what BEGIN says when all is attached.
_ONE_LINER = """
BEGIN {{ printf("ready\\n"); }}
tracepoint:sock:inet_sock_set_state /args->sport == {0} || args->dport == {0}/ {{
    printf("%d %d %d %d\\n", args->sport, args->dport, args->oldstate, args->newstate);
}}
tracepoint:tcp:tcp_retransmit_skb /args->sport == {0} || args->dport == {0}/ {{
    printf("%d %d\\n", args->sport, args->dport);
}}
"""


def _tcpwatch(*options: str) -> Callable[[Target], Sequence[str]]:
    return lambda target: [*TCPWATCH, "--port", str(target.port), *options]


def _tcpdump(*options: str) -> Callable[[Target], Sequence[str]]:
    """In the namespace of the target: the others see all of them."""
    return lambda target: [
        *("nsenter", f"--net=/proc/{target.pid}/ns/net", "--"),
        *("tcpdump", "-i", "any", *options, f"tcp port {target.port}"),
    ]


TCPWATCH_PORT = Peer("tcpwatch --port", _tcpwatch(), "tcpwatch: tracing")
TCPWATCH_COMPILING = Peer(
    "tcpwatch --port, first start on a kernel",
    # Where nothing can be kept, every start is the first.
    lambda target: ["env", "CACHE_DIRECTORY=/dev/null", *_tcpwatch()(target)],
    "tcpwatch: tracing",
)
TCPWATCH_NO_RESUME = Peer("tcpwatch --port --no-resume", _tcpwatch("--no-resume"), "tcpwatch: tracing")
TCPWATCH_JSON = Peer("tcpwatch --port --json", _tcpwatch("--json"), "tcpwatch: tracing")
TCPWATCH_EVERYTHING = Peer("tcpwatch --json", lambda _: [*TCPWATCH, "--json"], "tcpwatch: tracing")
TCPWATCH_SMALL_RING = Peer(
    "tcpwatch --json --buffer-size 1M",
    lambda _: [*TCPWATCH, "--json", "--buffer-size", "1M"],
    "tcpwatch: tracing",
)
TCPWATCH_RECORD = Peer(
    "tcpwatch record --port",
    lambda target: [*TCPWATCH, "record", "-o", "/dev/null", "--port", str(target.port)],
    "tcpwatch: tracing",
)
TCPRETRANS = Peer("bcc tcpretrans", lambda _: ["tcpretrans-bpfcc"], "Tracing retransmits", bpf=True)
TCPRETRANS_TLP = Peer(
    "bcc tcpretrans --lossprobe", lambda _: ["tcpretrans-bpfcc", "-l"], "Tracing retransmits", bpf=True
)
TCPSTATES = Peer("bcc tcpstates", lambda _: ["tcpstates-bpfcc"], "SKADDR", bpf=True)
BPFTRACE = Peer(
    "bpftrace one-liner",
    lambda target: ["bpftrace", "-B", "line", "-e", _ONE_LINER.format(target.port)],
    "ready\n",
    bpf=True,
)
BPFTRACE_TCPRETRANS = Peer("bpftrace tcpretrans.bt", lambda _: ["tcpretrans.bt"], "Tracing tcp retransmits", bpf=True)
TCPDUMP = Peer("tcpdump", _tcpdump("-w", "/dev/null"), "listening on", prints=False)
TCPDUMP_TEXT = Peer("tcpdump -l", _tcpdump("-n", "-l"), "listening on")
STRACE = Peer(
    "strace", lambda target: ["strace", "-f", "-e", "trace=network", "-p", str(target.pid)], "attached", prints=False
)
NOBODY = Peer("nothing (the noise)", lambda _: ["sh", "-c", "echo ready; exec sleep infinity"], "ready\n")

PEERS = (TCPRETRANS, TCPRETRANS_TLP, TCPSTATES, BPFTRACE, BPFTRACE_TCPRETRANS, TCPDUMP)
"""Everything else that is started and looked at by itself."""


@dataclass(frozen=True)
class Counts:
    """The counts in tcpwatch's summary."""

    events: int
    lost: int


def counts(stderr: str) -> Counts | None:
    """Parse the counts from stderr; None for another program."""
    found = _SUMMARY.search(stderr)
    return Counts(*(int(number.replace(",", "")) for number in found.groups())) if found else None


class Watcher:
    """A program, from its start until it is ready, and to its end. Raises CannotRun where it never is ready.

    Its output goes to files in the directory, or stdout to `output`. before: what to run it with.
    """

    def __init__(
        self,
        argv: Sequence[str],
        ready: str,
        directory: Path,
        *,
        before: Sequence[str] = (),
        output: int | None = None,
    ) -> None:
        self._stdout, self._stderr = directory / "stdout", directory / "stderr"
        self.began = time.monotonic()
        if shutil.which(argv[0]) is None:
            raise CannotRun(f"{argv[0]} is not installed")
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                dies_with_us([*before, *argv]),
                stdin=subprocess.DEVNULL,
                stdout=stdout if output is None else output,
                stderr=stderr,
                cwd=ROOT,
                # A bcc tool keeps 8 KiB back when it does not write to a terminal, its first line with them.
                env=environment(PYTHONUNBUFFERED="1") if ready != TCPWATCH_PORT.ready else environment(),
                start_new_session=True,
            )
        self.pid = self._process.pid
        try:
            self._wait(lambda: ready in self.stderr() or ready in self.printed(), "it was not ready")
        except BaseException:
            self.kill()
            raise
        self.ready_s = time.monotonic() - self.began

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self.kill()

    def printed(self) -> str:
        """Its stdout so far."""
        return self._stdout.read_text(encoding="utf-8", errors="replace")

    def stderr(self) -> str:
        """Its stderr so far."""
        return self._stderr.read_text(encoding="utf-8", errors="replace")

    def wait_for_line(self, text: str) -> float:
        """Seconds from its start to a line on stdout with this text."""
        self._wait(lambda: text in self.printed(), f"it printed no {text}")
        return time.monotonic() - self.began

    def _wait(self, condition: Callable[[], bool], complaint: str) -> None:
        deadline = time.monotonic() + READY_S
        while not condition():
            if self._process.poll() is not None:
                raise CannotRun(_reason(self.stderr()) or f"it ended with status {self._process.returncode}")
            if time.monotonic() > deadline:
                raise CannotRun(f"{complaint} within {READY_S} s")
            time.sleep(0.001)

    def stop(self) -> str:
        """Send ^C and return its stderr. Stopping again does nothing."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.kill()
        return self.stderr()

    def kill(self) -> None:
        """At once."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


class Watchers:
    """Starts watchers, and collects the reasons of those that cannot run here."""

    def __init__(self, directory: Path, lent: Sequence[str]) -> None:
        self._directory = directory
        self.lent = lent
        self.reasons: dict[str, str] = {}

    def start(self, peer: Peer, target: Target, *, output: int | None = None) -> Watcher:
        """A peer that is ready; its stdout to `output` or a file. Raises CannotRun, naming it."""
        try:
            before = self.lent if peer.bpf else ()
            return Watcher(peer.argv(target), peer.ready, self._directory, before=before, output=output)
        except CannotRun as error:
            raise CannotRun(f"{peer.name}: {error}") from error

    def usable(self, peers: Sequence[Peer], target: Target) -> list[Peer]:
        """The peers that can run here, found by trying. `reasons` has the errors of the others."""
        usable = []
        for peer in peers:
            try:
                with self.start(peer, target):
                    usable.append(peer)
            except CannotRun as error:
                self.reasons[peer.name] = str(error.__cause__)
        return usable

    def notes(self, peers: Sequence[Peer]) -> list[str]:
        """Notes about these peers for below the table."""
        notes = [
            f"{peer.name} cannot run here: {self.reasons[peer.name]}" for peer in peers if peer.name in self.reasons
        ]
        other = surroundings.borrowed_headers()
        compiles = any(peer.name.startswith("bcc") and peer.name not in self.reasons for peer in peers)
        if self.lent and other is not None and compiles:
            notes.append(
                f"this kernel has no headers, so bcc's tools used those of {other.name}: "
                "valid for their cost, not for what they print"
            )
        return notes


@contextmanager
def watchers() -> Iterator[Watchers]:
    """With a directory for their output, and headers."""
    with sweeping.temporary_directory() as directory, surroundings.lent() as before:
        yield Watchers(directory, before)


def _reason(stderr: str) -> str:
    """The most informative line of an error: the first that looks like one, else the last."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    # bpftrace goes on after that one.
    errors = [line for line in lines if _ERROR.match(line) and "RLIMIT_MEMLOCK" not in line]
    return (errors or lines[-1:] or [""])[0]

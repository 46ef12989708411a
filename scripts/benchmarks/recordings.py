"""Long recordings, made from a short real one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import workloads
from benchmarks.processes import TCPWATCH
from benchmarks.watchers import TCPWATCH_PORT, Watcher
from tracer.model.times import format_time, parse_time

_CONNECTIONS, _STALLS = 200, 50
_MARKS = ("@time@", "@ktime@", "@sock@")
_BLOCK = 2_000
_PAUSE_NS = 1_000_000_000


def record(directory: Path) -> Path:
    """Some connections that come and go, and as many events of others that stall, as tcpwatch records them."""
    path = directory / "sample.tw"
    argv = [*TCPWATCH, "record", "-o", str(path), "--port", str(workloads.PORT)]
    with (
        workloads.short_connections(_CONNECTIONS, 1_000) as connections,
        workloads.stalls(_STALLS) as stalls,
        Watcher(argv, TCPWATCH_PORT.ready, directory),
    ):
        connections.go()
        stalls.go()
    return path


@dataclass(frozen=True)
class _Template:
    """A line of the sample in four pieces, and what stands between them."""

    pieces: Sequence[str]
    time_ns: int
    ktime_ns: int
    sock: int

    @classmethod
    def of(cls, line: str) -> _Template:
        event = json.loads(line)
        time_ns, ktime_ns, sock = parse_time(event["time"]), event["ktime_ns"], int(event.get("sock", "0"), 16)
        event["time"], event["ktime_ns"] = _MARKS[:2]
        if "sock" in event:
            event["sock"] = _MARKS[2]
        text = json.dumps(event, separators=(",", ":")).replace(f'"{_MARKS[1]}"', _MARKS[1])
        pieces = []
        for mark in _MARKS:
            piece, _, text = text.partition(mark)
            pieces.append(piece)
        return cls([*pieces, text], time_ns, ktime_ns, sock)

    def again(self, copy: int, later_ns: int) -> str:
        """The line with a later time and another socket."""
        before, between, then, after = self.pieces
        time = format_time(self.time_ns + later_ns)
        # A line without a socket has its last piece empty.
        sock = f"{(self.sock + copy) % 2**64:016x}" if after else ""
        return f"{before}{time}{between}{self.ktime_ns + later_ns}{then}{sock}{after}\n"


def multiply(sample: Path, events: int) -> Iterator[bytes]:
    """A recording with a number of events, in blocks: the sample repeated, with later times and other sockets."""
    header, *lines = sample.read_text(encoding="utf-8").splitlines()
    templates = [_Template.of(line) for line in lines]
    span_ns = templates[-1].ktime_ns - templates[0].ktime_ns + _PAUSE_NS
    block = [f"{header}\n"]
    for number in range(events):
        copy, index = divmod(number, len(templates))
        block.append(templates[index].again(copy, copy * span_ns))
        if len(block) == _BLOCK:
            yield "".join(block).encode()
            block.clear()
    yield "".join(block).encode()

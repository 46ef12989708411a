"""Two recorders and ten live watchers at once: each has every event, and none lost any."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from counting import Witness
from traffic import storm
from watching import PATIENCE_S, Start, Watch, both_ends

from tracer.lab.namespace import wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Server, embedded_client
from tracer.model.validation import to_json
from tracer.recordings.reader import RecordingReader

RECORDERS, LIVE = 2, 10
CONNECTIONS_A_SECOND, SECONDS = 200, 1
RETRANSMISSIONS = 4
LAST = 4444
"""Port of the last connection, which is refused."""
HAPPENED = frozenset({"state", "retransmit", "reset", "error"})
WHAT = (
    "event",
    "netns",
    "laddr",
    "lport",
    "raddr",
    "rport",
    "state",
    "old_state",
    "new_state",
    "kind",
    "attempt",
    "error",
)


def what_happened(events: Iterable[Mapping[str, Any]]) -> Counter[tuple[Any, ...]]:
    """The events without what differs from one watcher to another: their clocks and the identity of a socket."""
    return Counter(tuple(each.get(name) for name in WHAT) for each in events if each["event"] in HAPPENED)


def recorded(path: Path) -> Counter[tuple[Any, ...]]:
    warnings: list[str] = []
    with RecordingReader(path, warn=warnings.append) as reader:
        happened = what_happened(to_json(event) for batch in reader for event in batch.events)
    assert not warnings
    return happened


def refuse(lab: Lab) -> None:
    program = f"import socket; socket.socket().connect_ex(('127.0.0.1', {LAST}))"
    lab.client.run(sys.executable, "-c", program)


def test_each_of_many_watchers_has_every_event(lab: Lab, watch: Start, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.tw" for number in range(RECORDERS)]
    commands = [("record", "-o", path) for path in paths] + [()] * LIVE
    witness = Witness(lab.client.netns)

    def start(command: tuple[str | Path, ...]) -> Watch:
        return watch(*command, "--netns", both_ends(lab), text=bool(command))

    try:
        with ThreadPoolExecutor() as pool:
            watches = list(pool.map(start, commands))
        with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
            assert client.ask("query")["ok"]
            connections = storm(lab.client, SECONDS, CONNECTIONS_A_SECOND)
            lab.drop_everything()
            client.send("query")
            wait_until(lambda: lab.client.counter("TcpRetransSegs") >= RETRANSMISSIONS, PATIENCE_S, "retransmissions")
            lab.restore()
            assert client.answer()["ok"]
        refuse(lab)
        live = watches[RECORDERS:]
        for each in live:
            each.wait_for(event="state", rport=LAST, new_state="CLOSE")
        said = [each.stop() for each in watches]
        states, retransmitted = witness.counted(), lab.client.counter("TcpRetransSegs")
    finally:
        witness.close()
    assert all(", 0 lost, " in each for each in said), said
    seen = [what_happened(each.events) for each in live] + [recorded(path) for path in paths]
    assert seen == [seen[0]] * len(watches)
    of_client = [each for each in live[0].events if each.get("netns") == lab.client.netns]
    kinds = Counter(each["event"] for each in of_client)
    assert connections >= CONNECTIONS_A_SECOND * SECONDS / 2 and kinds["state"] == states > 8 * connections
    assert sum(each["segments"] for each in of_client if each["event"] == "retransmit") == retransmitted

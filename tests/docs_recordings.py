"""The recording that the documents' examples read: a night on which a firewall forgot connections after an hour."""

from __future__ import annotations

import gzip
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from builders import event
from compact_recordings import record_both
from incident_recordings import others
from recording_files import header, record
from stall_events import LOSS_PROBE_MS, OWNED, a_night, close, freeze, heard, orderly, waiting

from tracer.cli import main
from tracer.model.events import Event

POOL = 40
COMPACT = "fleet/web-a/stalls-20270115T020000.123Z.tw.gz"
"""A compact recording, below the directory that stands for /srv/tcpwatch."""
NAMES = ("night.tw.gz", "x.tw.gz", "now.tw", "log/record-20270115T020000.123Z.tw.gz")
"""The files, below one directory. `log` stands for /var/log/tcpwatch."""
QUIET = "ci.tw.gz"
"""A recording without a stall."""
HOSTS = ("web-1", "web-2")
"""Hosts with an output of `report --json` in `reports`."""
BOTH_ENDS = ("web-1.tw.gz", "db-1.tw.gz")
"""Recordings of the two hosts of a connection that a firewall forgot."""


def write_recordings(directory: Path) -> None:
    """Write QUIET, COMPACT, and each of NAMES: dead connections to four services, and stalls of other kinds."""
    request = waiting(-300, asked_ms=81_040, sock="asked", lport=50_010, raddr="10.77.2.8", rport=5672, **OWNED)
    end = event("state", 310, old_state="ESTABLISHED", new_state="CLOSE", state="CLOSE", sock="healthy")
    for name in NAMES:
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        record(path, [*a_night(), *hour(), *others(), request, end], header(host="web-a"))
    (directory / COMPACT).parent.mkdir(parents=True)
    record_both(directory, a_night(), ".gz", header(host="web-a")).compact.rename(directory / COMPACT)
    (directory / "full.tw.gz").unlink()
    (directory / "reports").mkdir(exist_ok=True)
    for host in HOSTS:
        recording = record(directory / "one.tw", [*a_night(), *hour()], header(host=host))
        with redirect_stdout(StringIO()) as report:
            assert main.run(["report", str(recording), "--json"]) == 0
        (directory / "reports" / f"{host}.json.gz").write_bytes(gzip.compress(report.getvalue().encode()))
        recording.unlink()
    for name, events in zip(BOTH_ENDS, both_ends()):
        record(directory / name, events, header(host=name.partition(".")[0]))
    record(directory / QUIET, [event("state", at, old_state="ESTABLISHED", new_state="CLOSE") for at in range(3)])


def hour() -> list[Event]:
    """A pool and two more clients that a firewall forgot after an hour. Others survived 58 minutes."""
    on: dict[str, Any] = {"exe": "python3.11"}
    off: dict[str, Any] = {**on, "keepalive": False}
    postgresql = {**on, "comm": "gunicorn", "raddr": "10.66.2.3", "rport": 5432}
    redis = {**off, "comm": "celery", "raddr": "10.66.2.4", "rport": 6379}
    rabbitmq = {**off, "comm": "consumer", "raddr": "10.66.2.5", "rport": 5672}
    made: list[Event] = []
    for number, service in enumerate((postgresql, redis, rabbitmq)):
        made.append(heard(1 + number, silent_ms=58 * 60_000, sock=f"survivor{number}", **service))
        for each in range(POOL if service is postgresql else 1):
            at = 100 + 20 * number + each / 10
            name: dict[str, Any] = {"sock": f"hour{number}-{each}", "lport": 42_000 + 100 * number + each, **service}
            name |= {"pid": 23_949 + number, "pids": [23_949 + number]}
            made += freeze(start=at, silent_ms=61 * 60_000 + LOSS_PROBE_MS, **name) + close(at + 13.4, **name)
    return made


def both_ends() -> tuple[list[Event], list[Event]]:
    """What a client and its server saw: a query after an hour that did not arrive, and how the server closed it."""
    owner: dict[str, Any] = {**OWNED, "lport": 40_100}
    server: dict[str, Any] = {
        "laddr": "10.66.2.2", "lport": 3306, "raddr": "10.66.1.2", "rport": 40_100, "sock": "server",
        "comm": "mariadbd", "pid": 812, "pids": [812],
    }  # fmt: skip
    closed = {"old_state": "ESTABLISHED", "new_state": "FIN_WAIT1", "silent_ms": 62 * 60_000}
    near, far = ([e for n in (1, 2) for e in orderly(n, 90 + n, is_client=is_client)] for is_client in (True, False))
    died = [*freeze(start=100, **owner), *close(113.4, **owner)]
    return [*near, *died], [*far, event("state", 130, **{**server, **closed})]

"""`tcpwatch sockets` held against `ss` on the same sockets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from watching import PATIENCE_S, ROOT, Json

from tracer.lab.namespace import Namespace, wait_until
from tracer.lab.network import SERVER

MAPPED = f"::ffff:{SERVER}"
STATES = {
    "ESTAB": "ESTABLISHED", "SYN-SENT": "SYN_SENT", "SYN-RECV": "SYN_RECV", "FIN-WAIT-1": "FIN_WAIT1",
    "FIN-WAIT-2": "FIN_WAIT2", "CLOSE-WAIT": "CLOSE_WAIT", "LAST-ACK": "LAST_ACK", "CLOSING": "CLOSING",
    "TIME-WAIT": "TIME_WAIT",
}  # fmt: skip
_Rows = dict[tuple[int, int], Json]
JIFFY_MS = 10  # with HZ=100, the lowest


def tcpwatch_sockets(*arguments: str | Path) -> str:
    """What `tcpwatch sockets` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "tracer", "sockets", *map(str, arguments)],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def ours(*arguments: str | Path) -> list[Json]:
    """What `tcpwatch sockets --json` prints."""
    return [json.loads(line) for line in tcpwatch_sockets("--json", *arguments).splitlines()]


def ss(namespace: Namespace, *options: str) -> dict[tuple[int, int], Json]:
    """What ss prints about each connection, by its ports.

    The time of a timer is left out: ss prints 3.032 s as `3.032ms`.
    """
    found = {}
    for line in namespace.run("ss", "-tinoeHO", *options).splitlines():
        state, unread, unacked, local, remote, *_ = line.split()
        # A timer that is overdue, which the timer wheel allows, has no time.
        timer = re.search(r"timer:\((\w+),([\w.]*),(\d+)\)", line)
        minutes = timer and re.fullmatch(r"(\d+)min", timer[2])
        numbers = {name: int(value) for name, value in re.findall(r" (rto|backoff|last\w+):(\d+)", line)}
        found[int(local.rpartition(":")[2]), int(remote.rpartition(":")[2])] = {
            "state": STATES[state],
            "unread": int(unread),
            "to be acknowledged": int(unacked),
            "timer": timer and timer[1],
            "attempt": timer and int(timer[3]),
            "minutes": minutes and int(minutes[1]),
            "ca lost": " lost:" in line,
            **numbers,
        }
    return found


def same(shown: Json) -> Json:
    """The values that stay while nothing happens."""
    return {name: value for name, value in shown.items() if not name.startswith("last") and name != "minutes"}


def compared(namespace: Namespace) -> dict[tuple[int, int], Json]:
    """The rows of `tcpwatch sockets` by ports, compared with ss.

    ss runs before and after, again and again until both agree.
    """
    looks: list[tuple[_Rows, _Rows, _Rows]] = []

    def nothing_happened_meanwhile() -> bool:
        before = ss(namespace)
        rows = {(row["lport"], row["rport"]): row for row in ours("--netns", str(namespace.netns))}
        after = ss(namespace)
        looks.append((before, rows, after))
        return {key: same(shown) for key, shown in before.items()} == {
            key: same(shown) for key, shown in after.items()
        }

    wait_until(nothing_happened_meanwhile, PATIENCE_S, "two looks of ss agree")
    before, rows, after = looks[-1]
    assert rows.keys() == before.keys()
    for key, row in rows.items():
        shown, later = before[key], after[key]
        assert row["netns"] == namespace.netns
        assert row["state"] == shown["state"]
        assert row["unread_bytes"] == shown["unread"]
        assert row["unacked_bytes"] + row.get("unsent_bytes", 0) == shown["to be acknowledged"]
        assert (row.get("timer"), row.get("attempt")) == (shown["timer"], shown["attempt"]), (row, shown)
        assert row["rto_ms"] == shown["rto"]
        assert row["backoff"] == shown.get("backoff", 0)
        assert (row["ca_state"] == "Loss") == shown["ca lost"]
        if shown["minutes"] is not None:
            assert later["minutes"] <= row["timer_ms"] / 60_000 <= shown["minutes"] + 1
        for name, words in (("since_sent_ms", ["lastsnd"]), ("since_received_ms", ["lastrcv"]),
                            ("silent_ms", ["lastrcv", "lastack"])):  # fmt: skip
            earliest, latest = (min(look.get(word, 0) for word in words) for look in (shown, later))
            assert earliest - JIFFY_MS <= row[name] <= latest + JIFFY_MS, name
    return rows

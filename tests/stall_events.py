"""The events that a stalled connection causes, as the kernel reports them.

The connection is that of builders.py. `at` is in seconds after the first sign of the stall.
"""

from __future__ import annotations

from typing import Any

from builders import event

from tracer.analysis.timer_wheel import bucket
from tracer.model.events import Event

HOUR_MS = 3_600_000
LOSS_PROBE_MS = 200
"""From sending data to its tail loss probe: 2·srtt + TCP_RTO_MIN."""
START_JIFFIES = 4_300_000_000 % 2**32


def rtx(kind: str = "rto", /, at: float = 0, attempt: int = 1, **fields: Any) -> Event:
    """A retransmission at HZ=250 of data that was sent LOSS_PROBE_MS before 0; the RTO doubles with each attempt."""
    ordinary: dict[str, Any] = {
        "kind": kind,
        "attempt": 0 if kind == "tlp" else attempt,
        "rto_ms": 204 if kind == "tlp" else 204 << (attempt - 1),
        "rto_max_ms": 120_000,
        "retries": 5,
        "retrying_ms": None if kind == "tlp" else 204 * ((1 << (attempt - 1)) - 1),
        "jiffies": (START_JIFFIES + round(at * 250)) % 2**32,
        "silent_ms": HOUR_MS + LOSS_PROBE_MS + round(at * 1000),
        "unacked_bytes": 527,
        "snd_wnd": 65536,
        "keepalive": True,
        "keepalive_idle_s": 7200,
        "keepalive_interval_s": 75,
        "keepalive_probes": 9,
        "user_timeout_ms": 0,
        "ca_state": "Open" if kind == "tlp" else "Loss",
        "backoff": 0 if kind == "tlp" else attempt - 1,
    }
    return event("retransmit", at, **{**ordinary, **fields})


def freeze(count: int = 5, start: float = 0, retries: int = 5, **fields: Any) -> list[Event]:
    """An unanswered query: a tail loss probe, then `count` retransmissions by the timer wheel at HZ=250."""
    events, jiffies, rto = [rtx("tlp", start, retries=retries, jiffies=0, **fields)], bucket(0, 51), 51
    first = jiffies
    for attempt in range(1, count + 1):
        times = {"rto_ms": rto * 4, "retrying_ms": (jiffies - first) * 4, "jiffies": jiffies}
        events.append(rtx("rto", start + jiffies / 250, attempt, **{"retries": retries, **times, **fields}))
        rto = min(2 * rto, 30_000)
        jiffies = bucket(jiffies, rto)
    return events


def close(at: float, error: str | None = "ETIMEDOUT", number: int = 110, **fields: Any) -> list[Event]:
    """The change to CLOSE, and the error that the kernel reports to the socket, if any."""
    closed = event("state", at, old_state="ESTABLISHED", new_state="CLOSE", **{"state": "CLOSE", **fields})
    if error is None:
        return [closed]
    return [closed, event("error", at, error=error, errno=number, **{"state": "CLOSE", **fields})]


def orderly(number: int, at: float, *, is_client: bool) -> list[Event]:
    """A healthy connection that its client closes: what one of both ends sees of that."""
    lport, sock = 50_000 + number, f"orderly{number}-{at}"
    if not is_client:
        ends = {"laddr": "10.66.2.2", "lport": 3306, "raddr": "10.66.1.2", "rport": lport, "sock": sock}
        return [event("state", at + 0.001, old_state="ESTABLISHED", new_state="CLOSE_WAIT", silent_ms=4, **ends)]
    ends = {"lport": lport, "sock": sock}
    return [
        event("state", at, old_state="ESTABLISHED", new_state="FIN_WAIT1", silent_ms=4, **ends),
        event("state", at + 0.002, old_state="FIN_WAIT1", new_state="FIN_WAIT2", silent_ms=0, **ends),
    ]


def heard(at: float, cause: str = "data", **fields: Any) -> Event:
    """The peer sent something after a silence. cause: what it was."""
    return event("resume", at, cause=cause, **{"silent_ms": HOUR_MS, "unacked_bytes": 527, **fields})


def reset(at: float, direction: str = "received", **fields: Any) -> Event:
    """A RST."""
    return event("reset", at, direction=direction, **{"silent_ms": HOUR_MS, "unacked_bytes": 0, **fields})


def probe(at: float, attempt: int, **fields: Any) -> Event:
    """A keepalive probe with the system's default times."""
    ordinary = {"keepalive": True, "keepalive_idle_s": 7200, "keepalive_interval_s": 75, "keepalive_probes": 9}
    silent = 7_200_000 + 75_000 * (attempt - 1)
    return event("keepalive", at, attempt=attempt, **{**ordinary, "silent_ms": silent, "jiffies": 1, **fields})


def window(at: float, attempt: int) -> Event:
    """A probe of a closed window."""
    return event("window-probe", at, attempt=attempt, rto_ms=204, unsent_bytes=717_656, snd_wnd=0, silent_ms=300)


def waiting(at: float = 0, asked_ms: int = 81_040, **fields: Any) -> Event:
    """A request that the peer acknowledged and did not answer. `at` is in seconds after 500."""
    silent_ms = fields.pop("silent_ms", asked_ms - 40)
    ordinary: dict[str, Any] = {
        "keepalive": False,
        "keepalive_idle_s": 7200,
        "keepalive_interval_s": 75,
        "keepalive_probes": 9,
        "user_timeout_ms": 0,
        "unacked_bytes": 0,
    }
    return event("waiting", 500 + at, asked_ms=asked_ms, silent_ms=silent_ms, **{**ordinary, **fields})


OWNED: dict[str, Any] = {"pid": 8506, "comm": "php", "pids": [8506]}


def a_night() -> list[Event]:
    """A connection survives 58 minutes of silence, two die after 61; one loses packets, one loses its peer in use."""
    events = [heard(0, silent_ms=58 * 60_000, sock="survivor")]
    for number, at in enumerate((10, 20)):
        name: dict[str, Any] = {"sock": f"frozen{number}", "lport": 40000 + number, **OWNED}
        events += freeze(start=at, silent_ms=61 * 60_000 + LOSS_PROBE_MS, **name) + close(at + 13.4, **name)
    events += [*freeze(2, start=60, silent_ms=210, sock="lossy"), heard(60.9, silent_ms=1000, sock="lossy")]
    dead: dict[str, Any] = {"sock": "dead", "raddr": "10.66.2.9", "rport": 6379}
    events += freeze(start=70, silent_ms=210, **dead) + close(83.4, **dead)
    return events

"""The rows of the bench, one subject a module."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.results import Result
from benchmarks.rows import (
    capacity,
    cpu,
    crowd,
    delay,
    growth,
    hooks,
    hosts,
    owners,
    replay,
    slowdown,
    sockets,
    start,
    walk,
)
from benchmarks.scale import Scale

ROWS: dict[str, Callable[[Scale], Result]] = {
    "mariadb": slowdown.mariadb,
    "redis": slowdown.redis,
    "storm": slowdown.storm,
    "hooks": hooks.hooks,
    "cpu": cpu.cpu,
    "capacity": capacity.capacity,
    "start": start.start,
    "memory": start.memory,
    "delay": delay.delay,
    "crowd": crowd.crowd,
    "replay": replay.replay,
    "hosts": hosts.hosts,
    "sockets": sockets.sockets,
    "walk": walk.walk,
    "owners": owners.owners,
    "connections": growth.connections,
    "events": growth.events,
}
"""By name, in the order in which they are run."""

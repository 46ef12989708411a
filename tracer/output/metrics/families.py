"""The metrics, each declared once: the name, type, meaning, unit and labels, and their values in a snapshot.

Prometheus's text and OTLP are both made of these families.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import NamedTuple

from tracer.output.metrics.services import Label
from tracer.output.metrics.snapshot import Durations, Snapshot

_SERVICE = ("service", "role")
SECONDS, BYTES = "s", "By"


class Type(Enum):
    """The type of a metric. The values of a counter only grow within a run."""

    COUNTER = auto()
    GAUGE = auto()
    HISTOGRAM = auto()


class Point(NamedTuple):
    """One value of a metric. labels: the values of the family's labels. value: Durations in a histogram."""

    labels: tuple[str, ...]
    value: float | Durations


class Family(NamedTuple):
    """A metric and its values. name: as Prometheus has it. unit: in UCUM, `{stall}` for a number of stalls."""

    type: Type
    name: str
    meaning: str
    unit: str
    labels: tuple[str, ...]
    points: tuple[Point, ...]


def families(now: Snapshot) -> Iterator[Family]:
    """The metrics of a snapshot. docs/fleet.md explains each."""
    yield from _of_stalls(now)
    yield from _of_services(now)
    yield from _of_tracing(now)


def _of_stalls(now: Snapshot) -> Iterator[Family]:
    yield Family(
        Type.COUNTER, "tcpwatch_stalls_total", "Stalls that have ended.", "{stall}",
        (*_SERVICE, "verdict", "outcome"),
        tuple(Point((*key.label, key.verdict, key.outcome), count) for key, count in now.ended.items()),
    )  # fmt: skip
    yield Family(
        Type.GAUGE, "tcpwatch_stalls_open", "Stalls that have not ended.", "{stall}", (*_SERVICE, "verdict"),
        tuple(Point((*label, verdict), count) for (label, verdict), count in now.open_stalls.items()),
    )  # fmt: skip
    yield _gauge(
        "tcpwatch_stall_gives_up_timestamp_seconds",
        "Unix time at which the kernel gives up the first of the open stalls.",
        SECONDS,
        now.gives_up_s,
    )
    yield _gauge(
        "tcpwatch_stuck_bytes",
        "Bytes of open stalls that the peer has not acknowledged.",
        BYTES,
        now.stuck_bytes,
    )
    yield Family(
        Type.HISTOGRAM, "tcpwatch_stall_duration_seconds", "Durations of the stalls that have ended.", SECONDS,
        _SERVICE,
        tuple(Point(tuple(label), each) for label, each in now.durations.items()),
    )  # fmt: skip


def _of_services(now: Snapshot) -> Iterator[Family]:
    yield _gauge(
        "tcpwatch_silence_survived_max_seconds",
        "The longest silence after which a connection to the service was alive.",
        SECONDS,
        now.survived_s,
    )
    yield _gauge(
        "tcpwatch_silence_fatal_min_seconds",
        "The shortest silence after which a connection to the service was dead.",
        SECONDS,
        now.fatal_s,
    )
    if now.at_risk is not None:
        yield _gauge(
            "tcpwatch_connections_at_risk",
            "Connections silent for longer than a silence that was fatal to another one, and not used since.",
            "{connection}",
            now.at_risk,
        )


def _of_tracing(now: Snapshot) -> Iterator[Family]:
    yield _counter(
        "tcpwatch_retransmitted_segments_total",
        "Segments that the kernel sent again.",
        "{segment}",
        "kind",
        now.segments,
    )
    yield Family(
        Type.COUNTER, "tcpwatch_keepalive_probes_total", "Keepalive probes that the kernel sent.", "{probe}", (),
        (Point((), now.keepalives),),
    )  # fmt: skip
    yield _counter(
        "tcpwatch_lost_events_total",
        "Events that tcpwatch missed, so that other counts are too low.",
        "{event}",
        "hook",
        now.lost,
    )
    if now.unexported is not None:
        yield _counter(
            "tcpwatch_otlp_dropped_records_total",
            "Log records that the OTLP receiver did not get.",
            "{record}",
            "reason",
            now.unexported,
        )
    yield Family(
        Type.GAUGE, "tcpwatch_hook_attached", "1 while tcpwatch traces this hook of the kernel, else 0.", "",
        ("hook",),
        tuple(Point((hook,), int(is_attached)) for hook, is_attached in now.hooks.items()),
    )  # fmt: skip
    yield Family(
        Type.GAUGE, "tcpwatch_build_info", "1, with the versions of tcpwatch and of the kernel.", "",
        ("version", "kernel"),
        (Point((now.version, now.kernel), 1),),
    )  # fmt: skip


def _gauge(name: str, meaning: str, unit: str, values: Mapping[Label, float]) -> Family:
    points = tuple(Point(tuple(label), value) for label, value in values.items())
    return Family(Type.GAUGE, name, meaning, unit, _SERVICE, points)


def _counter(name: str, meaning: str, unit: str, label: str, values: Mapping[str, int]) -> Family:
    points = tuple(Point((each,), count) for each, count in values.items())
    return Family(Type.COUNTER, name, meaning, unit, (label,), points)

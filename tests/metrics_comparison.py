"""Metrics and a report of the same run, in one form to compare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

Series = dict[str, dict[tuple[str, ...], float]]


class Counted(NamedTuple):
    """What both count. stalls: by service, role, verdict and outcome. silences: seconds, by service and role."""

    stalls: dict[tuple[str, str, str, str], int]
    segments: int | None
    keepalives: int | None
    survived_s: dict[tuple[str, str], float]
    fatal_s: dict[tuple[str, str], float]
    lost: int


def series_of(text: str) -> Series:
    """The values by the name of the metric and the values of its labels, in the order of the labels' names."""
    found: Series = {}
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call, unused-ignore]
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def of_metrics(text: str) -> Counted:
    """What the text of the metrics counts."""
    found = series_of(text)

    def by_service(name: str) -> dict[tuple[str, str], float]:
        return {(service, role): value for (role, service), value in found.get(name, {}).items()}

    return Counted(
        {
            (service, role, verdict, outcome): int(count)
            for (outcome, role, service, verdict), count in found.get("tcpwatch_stalls_total", {}).items()
        },
        int(sum(found["tcpwatch_retransmitted_segments_total"].values())),
        int(found["tcpwatch_keepalive_probes_total"][()]),
        by_service("tcpwatch_silence_survived_max_seconds"),
        by_service("tcpwatch_silence_fatal_min_seconds"),
        int(sum(found["tcpwatch_lost_events_total"].values())),
    )


def of_report(records: Iterable[dict[str, Any]]) -> Counted:
    """What the lines of `report --json` count. Only a report with the kernel's own counts has segments and probes."""
    stalls: Counter[tuple[str, str, str, str]] = Counter()
    survived_s: dict[tuple[str, str], float] = {}
    fatal_s: dict[tuple[str, str], float] = {}
    summary: dict[str, Any] = {}
    services: dict[tuple[str, int], tuple[str, str]] = {}
    ends: list[dict[str, Any]] = []
    for record in records:
        if record.get("report") == "service":
            is_server = "lport" in record
            port = record["lport"] if is_server else record["rport"]
            label = (f"*:{port}", "server") if is_server else (record["service"], "client")
            services[record["raddr"], port] = label
            if "survived_ms" in record:
                survived_s[label] = max(record["survived_ms"] / 1000, survived_s.get(label, 0.0))
            if "fatal_ms" in record:
                fatal_s[label] = min(record["fatal_ms"] / 1000, fatal_s.get(label, float("inf")))
        elif record.get("report") == "summary":
            summary = record
        elif record.get("event") == "stall":
            ends.append(record)
    for end in ends:
        label = services.get((end["raddr"], end["rport"])) or services[end["raddr"], end["lport"]]
        service, role = label
        stalls[service, role, end["verdict"], end["outcome"]] += 1
    seen = summary.get("seen", {})
    return Counted(
        dict(stalls), seen.get("retrans_segs"), seen.get("keepalives"), survived_s, fatal_s, summary["lost"]
    )

"""The shipped rules, alerts and dashboard: by promtool, and against the metrics that there are."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tracer.output.metrics.counting import MetricsSink
from tracer.output.metrics.exposition import exposition
from tracer.output.metrics.services import Places, Silences

ROOT = Path(__file__).resolve().parent.parent
FLEET = ROOT / "docs/fleet"
SUFFIXES = r"(_bucket|_count|_sum)?"


def names() -> set[str]:
    """The names of all metrics, with _total."""
    sink = MetricsSink(Silences(Places(1)), min_idle_ms=1, hooks={}, version="", kernel="", unexported=dict)
    return set(re.findall(r"^# TYPE (\S+) ", exposition(sink.latest).decode(), re.MULTILINE))


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "rules", "rules.yml", "alerts.yml"],
        ["test", "rules", "rules-test.yml"],
        ["check", "config", "prometheus.yml"],
    ],
    ids=" ".join,
)
def test_promtool_accepts_the_files(arguments: list[str]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=FLEET, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


@pytest.mark.parametrize("file", ["rules.yml", "alerts.yml", "dashboard.json"])
def test_they_name_metrics_that_there_are(file: str) -> None:
    text = (FLEET / file).read_text()
    recorded = set(re.findall(r"record: service:(\w+):", (FLEET / "rules.yml").read_text()))
    used = set(re.findall(r"tcpwatch_\w+", text))
    assert used
    for name in used - recorded:
        assert name in names() or re.sub(f"{SUFFIXES}$", "", name) in names(), name


def test_the_page_explains_each_metric() -> None:
    page = (ROOT / "docs/fleet.md").read_text()
    assert len(names()) == 14
    for name in names():
        assert f"| `{name}` |" in page, name


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    dashboard: dict[str, Any] = json.loads((FLEET / "dashboard.json").read_text())
    assert dashboard["title"] and dashboard["uid"] and dashboard["schemaVersion"] >= 36
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    taken: set[tuple[int, int]] = set()
    ids = set()
    for panel in dashboard["panels"]:
        ids.add(panel["id"])
        assert panel["type"] in ("stat", "timeseries", "table") and panel["title"]
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells
        refs = [target["refId"] for target in panel["targets"]]
        assert refs and len(set(refs)) == len(refs)
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == panel["datasource"]["uid"] == "${datasource}"
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= {*variables, "__rate_interval"}
    assert len(ids) == len(dashboard["panels"])

"""docs/fleet.md as a newcomer follows it: from the clone to a firing alert with the path's idle timeout in it."""

from __future__ import annotations

import json
import re
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from docs_examples import ROOT, examples
from prometheus import api, free_port, running, wait_for_line

from tracer.lab.namespace import wait_until

pytestmark = pytest.mark.alone

FIRES_S = 45
"""From the freeze of a connection to the alert."""
SECTION = [each.command for each in examples() if each.page == "docs/fleet.md"]
DASHBOARD = ROOT / "docs/fleet/dashboard.json"


def typed(command: str, ports: dict[str, int], tmp_path: Path) -> list[str]:
    """The words of a command of the page, with free ports, the interpreter of the tests and an own directory."""
    for written, free in ports.items():
        command = command.replace(written, str(free))
    command = command.replace("docs/fleet/", f"{tmp_path}/fleet/").replace("/tmp/tcpwatch-", f"{tmp_path}/")
    return shlex.split(command.replace("sudo scripts/tcpwatch", f"{sys.executable} -m tracer"))


def is_up(base: str) -> bool:
    """Whether the last scrape of tcpwatch succeeded."""
    return has_result(base, 'up{job="tcpwatch"} == 1')


def firing(base: str) -> list[dict[str, Any]]:
    """The alerts that fire for the service of the demo."""
    alerts = (api(base, "alerts") or {"alerts": []})["alerts"]
    return [
        each
        for each in alerts
        if each["state"] == "firing" and each["labels"]["alertname"] == "TcpConnectionsFrozen"
        and each["labels"]["service"] == "10.66.2.2:3306"
    ]  # fmt: skip


def test_from_the_clone_to_a_firing_alert(tmp_path: Path) -> None:
    first = next(number for number, each in enumerate(SECTION) if each.startswith("sudo apt-get install "))
    _, watch, serve, survive, freeze, look = SECTION[first : first + 6]
    assert look.startswith("curl ")
    ports = {"9718": free_port(), "9099": free_port()}
    (tmp_path / "fleet").mkdir()
    for file in (ROOT / "docs/fleet").iterdir():
        (tmp_path / "fleet" / file.name).write_text(file.read_text().replace("9718", str(ports["9718"])))
    base = f"http://127.0.0.1:{ports['9099']}"
    with running(typed(watch, ports, tmp_path), tmp_path / "tcpwatch.log"):
        wait_for_line(tmp_path / "tcpwatch.log", "tracing")
        with running(typed(serve, ports, tmp_path), tmp_path / "prometheus.log"):
            wait_until(lambda: is_up(base), 60, "Prometheus has scraped tcpwatch")
            with running(typed(survive, ports, tmp_path), tmp_path / "survive.log", is_over=True):
                pass
            demo = tmp_path / "freeze.log"
            with running(typed(freeze, ports, tmp_path), demo, is_over=True):
                wait_for_line(demo, "sends its next query")
                wait_until(lambda: firing(base), FIRES_S, "the alert fires")
                ranged = re.compile(r"survived, on any host: [34]\.?\d*s\. Shortest that was fatal: [6-9]\.?\d*s\.")
                wait_until(
                    lambda: any(ranged.search(each["annotations"]["description"]) for each in firing(base)),
                    FIRES_S, "the alert has both ends of the range",
                )  # fmt: skip
            answers_each_query_of_the_dashboard(base)


def has_result(base: str, query: str) -> bool:
    """Whether the query has values."""
    return bool((api(base, "query", query=query) or {}).get("result"))


def answers_each_query_of_the_dashboard(base: str) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    values = {"$__rate_interval": "1m", "$service": ".*", "$instance": ".*"}
    asked = 0
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            query = target["expr"]
            for name, value in values.items():
                query = query.replace(name, value)
            answer = api(base, "query", query=query)
            assert answer is not None, f"{panel['title']}: {query}"
            # Two are there only while something is wrong. The others have values once it was scraped again.
            if panel["title"] not in ("The kernel gives up first in", "Events that tcpwatch missed"):
                wait_until(partial(has_result, base, query), 60, f"{panel['title']}: {query}")
            asked += 1
    for variable in dashboard["templating"]["list"][1:]:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
        assert api(base, f"label/{label}/values", **{"match[]": metric}), variable["name"]
    assert asked >= 12

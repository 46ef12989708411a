"""One drop between two recorded hosts: the report of both recordings names the direction."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from running import tcpwatch
from watching import Start

from tracer.lab.namespace import wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Server, embedded_client
from tracer.model.times import format_time, parse_time

IDLE_S = 2.5
"""More than twice the difference of clocks that is allowed for."""
HOSTS = ("web-1", "db-1")


def as_if_on(host: str, recording: Path, ahead_s: int, of: Path, from_ns: int = 0) -> Path:
    """A recording as it would be on a host of that name with a clock that is ahead, or set to that at from_ns."""
    lines = [json.loads(line) for line in of.read_text().splitlines()]
    for line in lines:
        if line.get("ktime_ns", 0) < from_ns:
            continue
        for name in {"time", "started", "since", "gives_up_at"} & line.keys():
            line[name] = format_time(parse_time(line[name]) + ahead_s * 1_000_000_000)
    moved_ns = 0 if from_ns else ahead_s * 1_000_000_000
    lines[0].update(host=host, run=host, clock_offset_ns=lines[0]["clock_offset_ns"] + moved_ns)
    recording.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    return recording


def report(recordings: list[Path]) -> tuple[list[dict[str, Any]], str]:
    """The JSON and the text of the report, which are those of a report of the outputs of `report --json`, too."""
    lines = tcpwatch("report", *recordings, "--json").stdout
    outputs = [each.with_suffix(".json") for each in recordings]
    for each, output in zip(recordings, outputs):
        output.write_text(tcpwatch("report", each, "--json").stdout)
    assert tcpwatch("report", *outputs, "--json").stdout == lines
    text = tcpwatch("report", *recordings).stdout
    assert tcpwatch("report", *outputs).stdout == text
    return [json.loads(line) for line in lines.splitlines()], " ".join(text.split())


@pytest.mark.parametrize("lost", ["nothing-arrived", "arrived"])
def test_the_direction_of_a_drop(lost: str, watch: Start, tmp_path: Path) -> None:
    """Whatever the clocks of both hosts, because they are compared by connections that both recordings have."""
    made = [tmp_path / f"{host}-made.tw" for host in HOSTS]
    with Lab(ttl_s=600, retries2=4) as lab, Server(lab.server, SERVER, 3306) as server:
        near = watch("--netns", lab.client.netns, "-w", made[0])
        far = watch("--netns", lab.server.netns, "-w", made[1])
        for _ in range(3):
            with embedded_client(lab.client, SERVER, 3306) as healthy:
                assert healthy.ask("query")["ok"]
        with embedded_client(lab.client, SERVER, 3306) as client:
            assert client.ask("query")["ok"]
            idle_since_s = time.monotonic()
            wait_until(lambda: time.monotonic() > idle_since_s + IDLE_S, 60, "the connection is idle")
            lab.drop_everything(to_server=lost == "nothing-arrived", to_client=lost == "arrived")
            client.send("query")
            assert client.answer()["error"] == "ETIMEDOUT"
            near.wait_for(event="stall", phase="end")
            if lost == "arrived":
                far.wait_for(event="retransmit")
            server.kill()
            far.wait_for(event="state", old_state="ESTABLISHED")
            lport = client.connected["lport"]
        near.stop()
        far.stop()
    way = "lost on the way to the peer" if lost == "nothing-arrived" else "lost on the way back"
    for ahead_s in (0, 7, 3600, -3600):
        names = [tmp_path / f"{host}{ahead_s}.tw" for host in HOSTS]
        recordings = [as_if_on("web-1", names[0], 0, made[0]), as_if_on("db-1", names[1], ahead_s, made[1])]
        records, text = report(recordings)
        (found,) = [each for each in records if each.get("report") == "other-end" and each["host"] == "web-1"]
        assert (found["other_host"], found["finding"]) == ("db-1", lost)
        assert abs(found["clock_ahead_ms"] - 1000 * ahead_s) < 500
        (stall,) = [each for each in records if each.get("event") == "stall" and each["id"] == found["id"]]
        assert (stall["lport"], stall["outcome"]) == (lport, "timed-out")
        assert "Known from both ends:" in text and way in text
        assert ("The clock of db-1 is" in text) == bool(ahead_s)
    for ahead_s in (7, -3600):
        names = [tmp_path / f"{host}-set{ahead_s}.tw" for host in HOSTS]
        frozen_ns = stall["ktime_ns"] - stall["duration_ms"] * 1_000_000 - 1_000_000_000
        was_set = as_if_on("db-1", names[1], ahead_s, made[1], frozen_ns)
        records, text = report([as_if_on("web-1", names[0], 0, made[0]), was_set])
        found_of = [each["host"] for each in records if each.get("report") == "other-end"]
        assert "web-1" not in found_of, "the clock of db-1 was set while its end was open"
        assert "Known" not in text

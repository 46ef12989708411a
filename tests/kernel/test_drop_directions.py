"""One drop between two recorded hosts: the report of both recordings names the direction."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from running import tcpwatch
from watching import Start

from tracer.lab.namespace import wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Server, embedded_client

IDLE_S = 2.5
"""More than twice the difference of clocks that is allowed for."""
HOSTS = ("web-1", "db-1")


def as_if_on(host: str, recording: Path) -> None:
    """Replace the name of this host in a recording."""
    header, *events = recording.read_bytes().splitlines(keepends=True)
    renamed = json.dumps({**json.loads(header), "host": host}, separators=(",", ":"))
    recording.write_bytes(b"".join([renamed.encode() + b"\n", *events]))


@pytest.mark.parametrize("lost", ["nothing-arrived", "arrived"])
def test_the_direction_of_a_drop(lost: str, watch: Start, tmp_path: Path) -> None:
    recordings = [tmp_path / f"{host}.tw" for host in HOSTS]
    with Lab(ttl_s=600, retries2=4) as lab, Server(lab.server, SERVER, 3306) as server:
        near = watch("--netns", lab.client.netns, "-w", recordings[0])
        far = watch("--netns", lab.server.netns, "-w", recordings[1])
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
    for host, recording in zip(HOSTS, recordings):
        as_if_on(host, recording)
    records = [json.loads(line) for line in tcpwatch("report", *recordings, "--json").stdout.splitlines()]
    (found,) = [each for each in records if each.get("report") == "other-end" and each["host"] == "web-1"]
    assert (found["other_host"], found["finding"]) == ("db-1", lost)
    (stall,) = [each for each in records if each.get("event") == "stall" and each["id"] == found["id"]]
    assert (stall["lport"], stall["outcome"]) == (lport, "timed-out")
    text = " ".join(tcpwatch("report", *recordings).stdout.split())
    way = "lost on the way to the peer" if lost == "nothing-arrived" else "lost on the way back"
    assert "Known from both ends:" in text and way in text

"""What `probe`, `protect` and `end` do, in the output and the recording of a tcpwatch that traces beside them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from acting import act
from watching import PATIENCE_S, ROOT, Watch

from tracer.lab.namespace import wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Server, embedded_client


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(ttl_s=600, retries2=15) as made:
        yield made


def test_actions_are_events_and_end_is_an_outcome(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "run.tw"
    ours = ("--netns", lab.client.netns)
    watch = Watch("--netns", str(lab.client.netns), "-w", file)
    other = Watch("--netns", str(lab.server.netns))
    try:
        with (
            Server(lab.server, SERVER, 3306),
            embedded_client(lab.client, SERVER, 3306, "--no-keepalive") as client,
        ):
            assert client.ask("query")["ok"]
            assert act("probe", *ours).returncode == 0
            assert act("protect", *ours, "--idle", "60s").returncode == 0
            lab.drop_everything()
            client.send("query")
            watch.wait_for(event="stall", phase="begin")
            assert act("end", *ours, "--dry-run").returncode == 0
            assert act("end", *ours, "--yes").returncode == 0
            actions = watch.wait_for(3, event="action")
            (ended,) = watch.wait_for(event="stall", phase="end")
        other.stop()
        watch.stop()
    finally:
        watch.kill()
        other.kill()
    assert [(each["action"], each["result"]) for each in actions] == [
        ("probe", "alive"),
        ("protect", "changed"),
        ("end", "ended"),
    ]
    probe, protect, end = actions
    assert probe["rtt_ms"] > 0
    assert (protect["before"]["keepalive"], protect["after"]["keepalive_idle_s"]) == (False, 60)
    assert end["sock"] == ended["sock"] and ended["outcome"] == "ended"
    assert all(each["pid"] == client.pid and each["by_user"] and each["by_pid"] for each in actions)
    assert other.of(event="action") == [], "another namespace"
    kept = [json.loads(line) for line in file.read_text().splitlines()]
    assert [each for each in kept if each.get("event") == "action"] == actions
    replayed = subprocess.run(
        [sys.executable, "-m", "tracer", "report", file, "--json"], capture_output=True, text=True, cwd=ROOT
    )
    (stall,) = [each for each in map(json.loads, replayed.stdout.splitlines()) if each.get("event") == "stall"]
    assert stall["outcome"] == "ended"


def test_a_killed_tracer_leaves_a_socket_that_the_next_one_removes() -> None:
    directory = Path("/run/tcpwatch")
    killed = Watch("--netns", "1")
    (left,) = directory.glob(f"{killed.process_id}-*")
    killed.kill()
    assert left.exists()
    watch = Watch("--netns", "1")
    try:
        assert not left.exists()
        own = list(directory.glob(f"{watch.process_id}-*"))
        assert len(own) == 1
        watch.stop()
        wait_until(lambda: not own[0].exists(), PATIENCE_S, "its own is removed at the end")
    finally:
        watch.kill()

"""`tcpwatch protect --follow` on the running kernel: each new connection once, and with few capabilities."""

from __future__ import annotations

import resource
import socket as sockets
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import capabilities, release, with_only
from protect_command import be_silent, following, lport, protect, settings_of, timers
from ss_comparison import MAPPED

from tracer.lab.network import SERVER, SERVER6, Lab
from tracer.lab.peers import Server, embedded_client

LO = "127.0.0.1"
TTL_S = 3


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(ttl_s=TTL_S, retries2=15) as made:
        yield made


@pytest.mark.parametrize("host", [SERVER, SERVER6, MAPPED])
def test_new_connections_of_both_ends(lab: Lab, tmp_path: Path, host: str) -> None:
    with (
        Server(lab.server, SERVER6 if host == SERVER6 else SERVER, 3306),
        following(tmp_path, "--netns", f"{lab.client.netns},{lab.server.netns}", "--port", "3306",
                  "--idle", "1s") as follow,
        embedded_client(lab.client, host, 3306) as client,
    ):  # fmt: skip
        rows = follow.wait_for(2, 10)
        assert {row["netns"] for row in rows} == {lab.client.netns, lab.server.netns}
        assert {row["result"] for row in rows} == {"changed"}
        assert {row["accepted"] for row in rows} == {False, True}
        assert timers(lab.client)[client.connected["lport"]][1] <= 1
        be_silent(2 * TTL_S)
        assert client.ask("query", 10)["ok"]
        assert len(follow.rows) == 2, "each one is printed once"
        assert follow.stop() == 0
    assert "changed 2 connections" in follow.talk


TO_FOLLOW = {"bpf", "perfmon", "sys_ptrace", "dac_read_search"}
"""As docs/requirements.md and the unit have them."""


def test_the_least_that_following_needs(lab: Lab, tmp_path: Path) -> None:
    """As the unit runs it, in an empty network namespace of its own."""
    least = TO_FOLLOW | ({"sys_resource"} if release() < (5, 11) else set())
    filters = ("--netns", lab.client.netns, "--port", "3306", "--idle", "60s")
    with (
        Server(lab.server, SERVER, 3306),
        following(tmp_path, *filters, before=["unshare", "--net", *with_only(least)]) as follow,
        embedded_client(lab.client, SERVER, 3306, "--uid", "65534", "--no-keepalive"),
    ):
        (row,) = follow.wait_for(1, 10)
        assert row["result"] == "changed"
        left, _ = capabilities(follow.process_id)
        assert left and len(left) <= len(TO_FOLLOW), "the others are dropped"


@pytest.mark.parametrize("missing", sorted(TO_FOLLOW))
def test_what_the_lack_of_a_capability_costs(lab: Lab, tmp_path: Path, missing: str) -> None:
    filters = ("--netns", lab.client.netns, "--port", "3306", "--idle", "60s")
    without = with_only(TO_FOLLOW - {missing})
    if missing != "dac_read_search":
        done = protect(*filters, "--follow", before=without)
        assert done.returncode == 1 and f"CAP_{missing.upper()}" in done.stderr and "\nHint: " in done.stderr
        return
    with (
        Server(lab.server, SERVER, 3306),
        following(tmp_path, *filters, before=without) as follow,
        embedded_client(lab.client, SERVER, 3306, "--uid", "65534"),
    ):
        (row,) = follow.wait_for(1, 10)
        assert row["result"] == "unreachable" and "Permission denied" in row["detail"]


def test_one_that_is_accepted_late(tmp_path: Path) -> None:
    """Until then no process holds it."""
    with sockets.create_server((LO, 0)) as listener:
        port = lport(listener)
        with (
            following(tmp_path, "--lport", port, "--host", LO, "--idle", "60s") as follow,
            sockets.create_connection((LO, port)),
        ):
            be_silent(3)
            assert follow.rows == []
            accepted, _ = listener.accept()
            with accepted:
                (row,) = follow.wait_for(1, 15)
                assert row["accepted"] and settings_of(accepted)["keepalive_idle_s"] == 60


def test_a_thousand_new_connections_in_a_second(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    made: list[sockets.socket] = []
    try:
        with (
            sockets.create_server((LO, 0), backlog=1024) as listener,
            following(tmp_path, "--rport", lport(listener), "--host", LO, "--idle", "60s") as follow,
        ):
            began = time.monotonic()
            for number in range(1000):
                made.append(sockets.create_connection(listener.getsockname()))
                made.append(listener.accept()[0])
                while time.monotonic() - began < number / 1000:
                    time.sleep(0.001)
            rows = follow.wait_for(1000, 10)
            took_s = time.monotonic() - began
            assert Counter(row["result"] for row in rows) == {"changed": 1000}
            assert len({row["lport"] for row in rows}) == 1000, "each one once"
            assert took_s < 6, took_s
            assert all(settings_of(each)["keepalive_idle_s"] == 60 for each in made[::2])
            assert not any(settings_of(each)["keepalive"] for each in made[1::2]), "the other ends are not named"
    finally:
        for each in made:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

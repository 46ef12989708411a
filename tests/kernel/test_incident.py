"""The incident itself: a real MariaDB behind a real firewall that forgets."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from running import tcpwatch
from watching import Json, Start, both_ends

from tracer.lab.mariadb import MariaDB, mariadb_client
from tracer.lab.namespace import wait_until
from tracer.lab.network import CLIENT, SERVER, Lab
from tracer.recordings.lines import line_event

TTL_S = 4
GRAIN_MS = 10  # a jiffy at HZ=100
SLACK_MS = 500  # how late a loaded machine may send the query


def told(events: list[Json]) -> list[str]:
    """The course of events in one word each."""
    words = []
    for each in events:
        if each["event"] == "retransmit":
            words.append("tlp" if each["kind"] == "tlp" else f"{each['kind']} {each['attempt']}")
        elif each["event"] == "state":
            words.append(f"{each['old_state']}→{each['new_state']}")
        else:
            words.append(each.get("error") or each["event"])
    return words


@pytest.mark.parametrize("retries2", [4])
def test_a_mysql_connection_that_the_firewall_forgot(watch: Start, tmp_path: Path, retries2: int) -> None:
    recording = tmp_path / "incident.tw"
    with Lab(ttl_s=TTL_S, retries2=retries2) as lab, MariaDB(lab.server, SERVER) as server:
        text = watch("--port", "3306", "--netns", both_ends(lab), "-w", recording, text=True)
        json_ = watch("--port", "3306", "--netns", both_ends(lab))
        with mariadb_client(lab.client, SERVER) as client:
            asked_ns = now_ns()
            assert client.ask("query")["ok"]
            answered_ns = now_ns()
            at_rest = json_.wait_for(new_state="ESTABLISHED", lport=client.connected["lport"])[-1]
            wait_until(lambda: not lab.sessions(3306), 60, "the firewall forgets the session")
            sent_ns = now_ns()
            client.send("query")
            json_.wait_for(event="retransmit")
            # While it hangs both ends still believe in the connection.
            lport = client.connected["lport"]
            assert lab.client.believes(lport, 3306) == lab.server.believes(3306, lport) == "ESTABLISHED"
            answer = client.answer()
            end = json_.wait_for(event="error")[0]
            assert lab.server.believes(3306, lport) == "ESTABLISHED", "the server never hears of it"
            assert server.sleeping_connections() == 1
            dropped, counted = lab.dropped_packets(), lab.client.counter("TcpRetransSegs")
        summary = text.stop()
        json_.stop()
    after = [each for each in json_.of(sock=at_rest["sock"]) if each["ktime_ns"] > at_rest["ktime_ns"]]
    stall = [each for each in after if each["event"] != "stall"]
    attempts = [f"rto {number}" for number in range(1, retries2 + 1)]
    assert told(stall) == ["tlp", *attempts, "ESTABLISHED→CLOSE", "ETIMEDOUT"]
    retransmits = stall[: retries2 + 1]

    # What the firewall dropped is the query itself and every retransmission of it; the kernel counted them as well.
    assert dropped == 1 + len(retransmits)
    assert counted == len(retransmits)

    # The silence is the application's idle time, from its last answer to the query, and at most an RTO more.
    first = retransmits[0]
    assert first["silent_ms"] >= TTL_S * 1000
    assert milliseconds(sent_ns - answered_ns) - GRAIN_MS <= first["silent_ms"]
    assert first["silent_ms"] <= milliseconds(sent_ns - asked_ns) + first["rto_ms"] + SLACK_MS
    for each in stall:
        assert milliseconds(each["ktime_ns"] - answered_ns) - GRAIN_MS <= each["silent_ms"]
        assert each["silent_ms"] <= milliseconds(each["ktime_ns"] - asked_ns) + GRAIN_MS

    for each in stall:
        assert (each["laddr"], each["raddr"], each["rport"], each["family"]) == (CLIENT, SERVER, 3306, 4)
        assert each["netns"] == lab.client.netns
        assert (each["pid"], each["pids"], each["comm"]) == (client.pid, [client.pid], "worker")
        assert each["keepalive"] is True, "PyMySQL sets it"
        assert (each["keepalive_idle_s"], each["keepalive_interval_s"], each["keepalive_probes"]) == (7200, 75, 9)
        assert each["unacked_bytes"] == first["unacked_bytes"] > 30
        assert each["cgroup"].startswith("/")
    assert [each["ca_state"] for each in retransmits] == ["Open"] + ["Loss"] * retries2
    assert [each["rto_ms"] for each in retransmits[1:]] == [first["rto_ms"] << n for n in range(retries2)]
    gaps = [b["ktime_ns"] - a["ktime_ns"] for a, b in zip(retransmits[1:], retransmits[2:])]
    assert gaps == sorted(gaps), "each wait is longer than the one before"

    # What the application got is what was said it would get.
    assert (end["errno"], end["error"], answer["errno"]) == (110, "ETIMEDOUT", 110)

    # The connection was in use by the measure of a minute, so it is no idle drop, and one lost packet no path loss.
    accounts = [each for each in after if each["event"] == "stall"]
    assert [each["phase"] for each in accounts] == ["begin", "update", "end"]
    assert [each["verdict"] for each in accounts] == ["no-answer", "path-loss", "path-loss"]
    assert len({each["id"] for each in accounts}) == 1
    assert (accounts[-1]["outcome"], accounts[-1]["error"]) == ("timed-out", "ETIMEDOUT")
    for each in accounts:
        assert (each["pid"], each["comm"], each["unacked_bytes"]) == (client.pid, "worker", first["unacked_bytes"])

    assert "recording to" in summary and "1 stall: 1 timed-out" in summary
    assert f"{sum(each['event'] not in ('stall', 'counters') for each in json_.events):,} events, 0 lost" in summary
    # As the live run, without the COLUMNS that readline may have set in this process.
    replayed = tcpwatch("replay", recording)
    assert replayed.stdout == "".join(text.lines), "byte for byte"
    assert max(map(len, text.lines[:1])) <= 81
    of_sockets = [line for line in recording.read_bytes().splitlines(keepends=True)[1:] if b'"sock":' in line]
    assert len(of_sockets) > 10 and all(map(line_event, of_sockets)), "each is read the quick way"
    as_json = tcpwatch("replay", recording, "--json", "-e", "error").stdout
    assert as_json.count("\n") == 1 and '"error":"ETIMEDOUT"' in as_json


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def milliseconds(ns: int) -> float:
    return ns / 1e6

"""A report of both hosts of a connection: what the other end shows about a stall."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import event
from incident_recordings import at_width, shown
from recording_files import header, record
from stall_events import HOUR_MS, OWNED, close, freeze, heard, probe, reset, waiting, window

from tracer.cli import main
from tracer.model.events import Event
from tracer.model.filters import Filter

Fields = dict[str, Any]
SERVER: Fields = {
    "laddr": "10.66.2.2", "lport": 3306, "raddr": "10.66.1.2", "rport": 33356, "sock": "5e12e1", "comm": "mysqld",
    "pid": 812, "pids": [812],
}  # fmt: skip
AT = 100.0
"""When the client's data is sent, in seconds after the start of both recordings."""


def client() -> list[Event]:
    """An hour of silence, a query, no answer, ETIMEDOUT after 13.4 s. Something else happens until AT + 100."""
    return [*freeze(start=AT, **OWNED), *close(AT + 13.4, **OWNED), elsewhere(AT + 100)]


def elsewhere(at: float) -> Event:
    """An event of another connection, which shows that tcpwatch ran then."""
    return event("state", at, old_state="SYN_SENT", new_state="ESTABLISHED", lport=1, raddr="192.0.2.9", sock="else")


def resumed(at: float = 5) -> Event:
    """Somebody's silence ends, so tcpwatch looks at received segments."""
    return heard(at, sock="somebody", raddr="192.0.2.8", silent_ms=70_000)


def opened(at: float = 1, **fields: Any) -> Event:
    return event("state", at, old_state="SYN_RECV", new_state="ESTABLISHED", **{**SERVER, **fields})


class Hosts:
    """Recordings of both hosts, and reports of them."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self._capsys = capsys
        self.files: list[Path] = []

    def add(self, host: str, events: list[Event], wanted: Filter | None = None, run: str = "") -> None:
        head = replace(header(wanted, host=host), run=run or host)
        self.files.append(record(self.directory / f"{host}{len(self.files)}.tw", events, head))

    def report(self, *arguments: str) -> str:
        """The report, which has to equal that of the outputs of `report --json`."""
        of_recordings = shown(self._capsys, "report", *self.files, *arguments)
        outputs = []
        for file in self.files:
            outputs.append(file.with_suffix(".json"))
            outputs[-1].write_text(shown(self._capsys, "report", file, "--json"))
        if not arguments or arguments[0] in ("--json", "--markdown"):
            assert shown(self._capsys, "report", *outputs, *arguments) == of_recordings
        return of_recordings

    def finding(self) -> Fields | None:
        """What the JSON has about the client's stall, if anything."""
        records = map(json.loads, self.report("--json").splitlines())
        found = [each for each in records if each.get("report") == "other-end" and each["host"] == "web-1"]
        assert len(found) <= 1
        return found[0] if found else None

    def findings(self, *others: list[Event], of: list[Event] | None = None) -> Fields | None:
        """The finding about the client's stall, beside recordings of other hosts."""
        self.add("web-1", client() if of is None else of)
        for number, events in enumerate(others, 1):
            self.add(f"db-{number}", events)
        return self.finding()


@pytest.fixture
def hosts(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Hosts:
    at_width(monkeypatch, 1000)
    return Hosts(tmp_path, capsys)


def what(found: Fields | None) -> str | None:
    return None if found is None else found["finding"]


# --- nothing arrived


def closed_later(silent_ms: int = HOUR_MS + 30_000, at: float = AT + 30) -> Event:
    """The server's process closes the connection after a silence."""
    return event("state", at, old_state="ESTABLISHED", new_state="FIN_WAIT1", **{**SERVER, "silent_ms": silent_ms})


def test_the_other_kernels_clock_of_silence_shows_that_nothing_arrived(hosts: Hosts) -> None:
    found = hosts.findings([closed_later(), elsewhere(AT + 100)])
    assert found is not None
    assert (found["finding"], found["other_host"], found["comm"], found["pid"]) == (
        "nothing-arrived",
        "db-1",
        "mysqld",
        812,
    )
    text = hosts.report()
    assert "db-1 received nothing of what was sent from 09:01:39 on, up to 09:01:53" in text
    assert "(mysqld[812]) was open" in text
    assert (
        "Known from both ends: packets of this connection are lost on the way to the peer. The peer is not dead."
        in text
    )
    assert "Consistent with a firewall" not in text, "it is no guess any more"
    assert "Both ends" in hosts.report("--markdown") and "Known from both ends" in hosts.report("--html", "-")


def test_a_recording_with_every_arrival_has_none(hosts: Hosts) -> None:
    assert what(hosts.findings([opened(), resumed(), elsewhere(AT + 100)])) == "nothing-arrived"


def test_another_connection_between_the_hosts_makes_it_a_forgotten_session(hosts: Hosts) -> None:
    other = opened(AT + 6, rport=33400, sock="another")
    assert what(hosts.findings([opened(), resumed(), other, elsewhere(AT + 100)])) == "nothing-arrived"
    assert "Known from both ends: a firewall or NAT on the path forgot this session." in hosts.report()


LOST = event("lost", AT + 1, count=3, hook="x", sock=None)
LEFT = event("state", AT + 1, old_state="ESTABLISHED", new_state="CLOSE_WAIT", **SERVER)
NO_CONCLUSION = {
    "it does not know the connection, as behind a NAT": [resumed(), elsewhere(AT + 100)],
    "it may not look at received segments, as with --no-resume": [opened(), elsewhere(AT + 100)],
    "it lost events": [opened(), resumed(), LOST, elsewhere(AT + 100)],
    "it ended too soon to be sure": [opened(), resumed(), elsewhere(AT + 2)],
    "another connection, of a later time": [opened(AT + 50), resumed(), elsewhere(AT + 100)],
    "it closed meanwhile, and then nobody looks at what arrives": [opened(), resumed(), LEFT, elsewhere(AT + 100)],
}


@pytest.mark.parametrize("why", NO_CONCLUSION)
def test_no_conclusion(why: str, hosts: Hosts) -> None:
    assert hosts.findings(NO_CONCLUSION[why]) is None
    text = hosts.report()
    assert "Both ends" not in text and "Consistent with a firewall" in text


def test_a_recording_that_ended_before_is_named_so(hosts: Hosts) -> None:
    assert what(hosts.findings([opened(), resumed(AT - 10)])) == "not-recorded"
    text = hosts.report()
    assert "was not recorded at that time: that recording ended at 09:01:30." in text
    assert "Consistent with a firewall" in text, "nothing is known"


def test_a_recording_that_began_later_is_named_so(hosts: Hosts) -> None:
    hosts.add("web-1", client())
    late = replace(header(host="db-1"), started="2027-01-15T09:00:00.000000Z", run="late")
    hosts.files.append(record(hosts.directory / "late.tw", [closed_later(2 * HOUR_MS, 3700), elsewhere(3800)], late))
    assert what(hosts.finding()) == "nothing-arrived", "its kernel knows of a silence that began before"
    hosts.files.pop()
    hosts.files.append(
        record(hosts.directory / "later.tw", [heard(3700, silent_ms=1_800_000, **SERVER), elsewhere(3800)], late)
    )
    assert what(hosts.finding()) == "not-recorded"
    assert "that recording began later." in hosts.report()


# --- something arrived


def test_what_arrived_was_answered_in_vain(hosts: Hosts) -> None:
    arrives = heard(AT - 0.1, silent_ms=HOUR_MS, **SERVER)
    waits = freeze(start=AT + 0.2, **{**SERVER, "silent_ms": 400})
    found = hosts.findings([resumed(), arrives, *waits, *close(AT + 13.8, **SERVER), elsewhere(AT + 100)])
    assert found is not None and found["finding"] == "arrived" and found["waited_since"]
    text = hosts.report()
    assert "db-1 received a segment at 09:01:39, while web-1 waited." in text
    assert "Known from both ends: the peer is not dead, and its packets are lost on the way back." in text
    assert "db-1 waited for an answer, too, since 09:01:40. What it sent did not arrive at web-1." in text


def test_a_segment_at_about_the_time_of_the_last_exchange_is_no_arrival(hosts: Hosts) -> None:
    """In use: what arrived within the tolerance may have been sent before."""
    stall = [*freeze(start=AT, **{**OWNED, "silent_ms": 400}), *close(AT + 13.4, **OWNED)]
    assert hosts.findings([closed_later(silent_ms=30_200), elsewhere(AT + 100)], of=stall) is None


def test_what_arrives_from_a_peer_that_is_received_here_does_not_show_a_broken_way_back(hosts: Hosts) -> None:
    sending = heard(AT + 8, "no-progress", silent_ms=100, **OWNED)
    stall = [*freeze(start=AT, **{**OWNED, "silent_ms": 100}), sending, *close(AT + 13.4, silent_ms=100, **OWNED)]
    assert hosts.findings([heard(AT + 4, silent_ms=HOUR_MS, **SERVER), elsewhere(AT + 100)], of=stall) is None


@pytest.mark.parametrize(("until", "expected"), [(AT + 300, "nothing-arrived"), (AT + 20, None)])
def test_all_probes_have_to_be_lost(until: float, expected: str | None, hosts: Hosts) -> None:
    stall = [
        *(probe(AT + 75 * number, attempt=number + 1, **OWNED) for number in range(4)),
        *close(AT + 240, **OWNED),
    ]
    assert what(hosts.findings([opened(), resumed(), elsewhere(until)], of=stall)) == expected


def test_clocks_may_differ_by_a_second(hosts: Hosts) -> None:
    assert what(hosts.findings([heard(AT - 0.9, silent_ms=HOUR_MS, **SERVER), elsewhere(AT + 100)])) == "arrived"


def test_both_hosts_send_and_nothing_arrives_at_either(hosts: Hosts) -> None:
    waits = freeze(start=AT + 6, **{**SERVER, "silent_ms": HOUR_MS + 6_000})
    found = hosts.findings([*waits, *close(AT + 20, **SERVER), elsewhere(AT + 100)])
    assert found is not None and (found["finding"], found["lost_back"]) == ("nothing-arrived", True)
    assert "packets of this connection are lost both ways" in hosts.report()


def test_a_probe_does_not_count_for_the_kernels_clock(hosts: Hosts) -> None:
    stall = [
        *(probe(AT + 75 * number, attempt=number + 1, **OWNED) for number in range(4)),
        *close(AT + 240, **OWNED),
    ]
    later = closed_later(silent_ms=2 * HOUR_MS + 300_000, at=AT + 300)
    assert hosts.findings([later, elsewhere(AT + 400)], of=stall) is None
    hosts.files.pop().unlink()
    came = heard(AT + 150, "probe", silent_ms=2 * HOUR_MS + 150_000, **SERVER)
    hosts.add("db-1", [came, later, elsewhere(AT + 400)])
    assert what(hosts.finding()) == "arrived"


# --- the other end was closed, or is open


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([closed_later(HOUR_MS, 50)], "its process closed it."),
        (close(50, **{**SERVER, "silent_ms": HOUR_MS}), "its kernel gave it up with ETIMEDOUT."),
        ([*close(50, None, **SERVER), reset(50, "sent", **SERVER)], "it was aborted with a reset."),
        ([*close(50, "ECONNRESET", 104, **SERVER), reset(50, **SERVER)], "a reset arrived."),
        (
            [*close(50, "ECONNABORTED", 103, **SERVER), reset(50, "sent", **SERVER),
             event("action", 50.5, action="end", result="ended", by_user="alice", **SERVER)],
            "tcpwatch end ended it, by alice.",
        ),
    ],
)  # fmt: skip
def test_who_closed_the_other_end_before(events: list[Event], words: str, hosts: Hosts) -> None:
    assert what(hosts.findings([*events, elsewhere(AT + 100)])) == "closed"
    text = hosts.report()
    assert f"On db-1 (mysqld[812]), the connection ended at 09:00:50, before this stall began: {words}" in text
    assert "Consistent with a firewall" in text


def test_a_host_without_that_connection_answers_with_a_reset(hosts: Hosts) -> None:
    stall = [reset(AT, **OWNED), *close(AT, "ECONNRESET", 104, **OWNED)]
    answer = reset(AT, "sent", **{**SERVER, "reason": "NO_SOCKET", "sock": None, "state": None, "silent_ms": None})
    assert what(hosts.findings([answer, elsewhere(AT + 100)], of=stall)) == "closed"
    assert "db-1 had no such connection any more: it answered with a reset at 09:01:40." in hosts.report()


def test_a_reset_that_the_other_end_did_not_send(hosts: Hosts) -> None:
    stall = [reset(AT, **OWNED), *close(AT, "ECONNRESET", 104, **OWNED)]
    still = [opened(), heard(AT + 50, **SERVER), elsewhere(AT + 100)]
    assert what(hosts.findings(still, of=stall)) == "open"
    assert "the reset did not come from the peer. A device on the path sent it." in hosts.report()


# --- the path works


def test_a_process_that_does_not_read_is_named(hosts: Hosts) -> None:
    stall = [replace(window(AT + number / 4, attempt=number + 1), **OWNED) for number in range(4)]
    assert what(hosts.findings([opened(), elsewhere(AT + 100)], of=stall)) == "not-read"
    assert "mysqld[812] on db-1 did not read what had arrived." in hosts.report()


def test_a_process_that_does_not_reply_is_named(hosts: Hosts) -> None:
    stall = [waiting(0, asked_ms=81_040, **OWNED), elsewhere(510)]
    assert what(hosts.findings([opened(), elsewhere(600)], of=stall)) == "no-reply"
    assert "mysqld[812] on db-1 has the request." in hosts.report()


def test_a_reply_that_was_lost(hosts: Hosts) -> None:
    stall = [waiting(0, asked_ms=81_040, **OWNED), elsewhere(510)]
    reply = [*freeze(start=440, **{**SERVER, "silent_ms": 300}), *close(453.4, **SERVER)]
    assert what(hosts.findings([opened(), *reply, elsewhere(600)], of=stall)) == "reply-lost"


def test_a_stall_that_was_answered_needs_no_other_end(hosts: Hosts) -> None:
    stall = [*freeze(2, start=AT, **OWNED), heard(AT + 0.9, **OWNED), elsewhere(AT + 90)]
    assert hosts.findings([closed_later(), elsewhere(AT + 100)], of=stall) is None


def test_a_filtered_recording_does_not_show_that_nothing_arrived(hosts: Hosts) -> None:
    hosts.add("web-1", client())
    hosts.add("db-1", [opened(silent_ms=70_000), resumed(), elsewhere(AT + 100)], Filter(min_idle_ms=60_000))
    assert hosts.finding() is None


def test_two_hosts_with_such_an_end_are_no_match(hosts: Hosts) -> None:
    server = [closed_later(), elsewhere(AT + 100)]
    assert hosts.findings(server, server) is None, "addresses of a private network may be used twice"


def test_a_loopback_address_matches_no_other_host(hosts: Hosts) -> None:
    local: Fields = {"laddr": "127.0.0.1", "raddr": "127.0.0.1"}
    stall = [*freeze(start=AT, **{**OWNED, **local}), *close(AT + 13.4, **{**OWNED, **local})]
    assert hosts.findings([closed_later(), opened(**local)], of=stall) is None


@pytest.mark.parametrize(
    "change",
    [{"open_us": 2**62}, {"received_us": [[1]]}, {"received_us": [["x", 1]]}, {"probes_us": [-1]},
     {"closed": {"how": "x"}}, {"laddr": 7}, {"rport": "x"}, {"began_us": 2**63 - 1}],
    ids=str,
)  # fmt: skip
def test_an_invalid_end_is_named_as_damage(
    change: Fields, tmp_path: Path, capsys: pytest.CaptureFixture[str], hosts: Hosts
) -> None:
    hosts.findings([closed_later(), elsewhere(AT + 100)])
    output = tmp_path / "x.json"
    lines = shown(capsys, "report", *hosts.files, "--json").splitlines()
    records = [json.loads(line) for line in lines]
    changed = [{**each, **change} if each.get("report") == "end" else each for each in records]
    output.write_text("".join(json.dumps(each, separators=(",", ":")) + "\n" for each in changed))
    assert main.run(["report", str(output)]) == 1
    assert "is damaged" in capsys.readouterr().err

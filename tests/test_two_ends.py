"""A report of both hosts of a connection: what the other end shows about a stall."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from builders import SECOND, event
from incident_recordings import at_width, shown
from recording_files import header, record
from stall_events import HOUR_MS, OWNED, close, freeze, heard, orderly, probe, reset, waiting, window

from tracer.analysis.closes import MAX_CONNECTIONS, MAX_PAIRS, MAX_PAIRS_OF_HOST, Close, Closes
from tracer.analysis.connection_ends import Ends
from tracer.cli import main
from tracer.model.events import Event
from tracer.model.filters import Filter
from tracer.model.times import format_time, parse_time

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


def compared(events: list[Event], *, is_client: bool, at: float = AT - 20) -> list[Event]:
    """These events, and healthy connections between both hosts, by which the clocks can be compared."""
    return [*events, *(each for number in (1, 2) for each in orderly(number, at + number, is_client=is_client))]


class Hosts:
    """Recordings of both hosts, and reports of them."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self._capsys = capsys
        self.files: list[Path] = []

    def add(
        self, host: str, events: list[Event], wanted: Filter | None = None, run: str = "", ahead_s: float = 0
    ) -> None:
        """Add a recording. ahead_s: how far the clock of its host is ahead."""
        head, ahead_ns = replace(header(wanted, host=host), run=run or host), round(ahead_s * SECOND)
        if ahead_ns:
            started = format_time(parse_time(head.started) + ahead_ns)
            head = replace(head, started=started, clock_offset_ns=head.clock_offset_ns + ahead_ns)
            events = [replace(each, time_ns=each.time_ns + ahead_ns) for each in events]
        number = len(list(self.directory.glob("*.tw")))
        self.files.append(record(self.directory / f"{number}-{host}.tw", events, head))

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
        self.add("web-1", compared(client() if of is None else of, is_client=True))
        for number, events in enumerate(others, 1):
            self.add(f"db-{number}", compared(events, is_client=False))
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


# --- clocks


SILENT = [closed_later(), elsewhere(AT + 100)]
"""Of the server: nothing arrived."""


def test_clocks_that_cannot_be_compared_make_a_condition(hosts: Hosts) -> None:
    hosts.add("web-1", client())
    hosts.add("db-1", SILENT)
    found = hosts.finding()
    assert found is not None and found["finding"] == "nothing-arrived" and "clock_ahead_ms" not in found
    text = hosts.report()
    assert "The clocks of web-1 and db-1 could not be compared. If they differ by less than a second:" in text
    assert "Then packets of this connection are lost on the way to the peer." in text
    assert "Known" not in text and "Consistent with a firewall" in text, "it is a guess still"


@pytest.mark.parametrize("ahead_s", [-90_000, -3600, -5, 0.4, 5, 3600])
@pytest.mark.parametrize("shifted", ["web-1", "db-1"])
def test_a_known_difference_of_the_clocks_is_taken_into_account(ahead_s: float, shifted: str, hosts: Hosts) -> None:
    hosts.add("web-1", compared(client(), is_client=True), ahead_s=ahead_s if shifted == "web-1" else 0)
    hosts.add("db-1", compared(SILENT, is_client=False), ahead_s=ahead_s if shifted == "db-1" else 0)
    found = hosts.finding()
    assert found is not None and found["finding"] == "nothing-arrived"
    db_ahead_s = ahead_s if shifted == "db-1" else -ahead_s
    assert found["clock_ahead_ms"] == round(db_ahead_s * 1000)
    text = hosts.report()
    assert "Known from both ends: packets of this connection are lost on the way to the peer." in text
    words = f"{'ahead of' if db_ahead_s > 0 else 'behind'} that of web-1."
    assert text.count(words) == (2 if abs(ahead_s) > 1 else 0), "in the summary, and with the stall"


@pytest.mark.parametrize("ahead_s", [-3, 3, -3600, 3600])
def test_a_difference_of_the_clocks_makes_no_false_arrival(ahead_s: float, hosts: Hosts) -> None:
    """The end of the silence before looks like an arrival, or an arrival like the end of the silence before."""
    arrives = [heard(AT + 8, silent_ms=HOUR_MS, **SERVER), elsewhere(AT + 9000)]
    hosts.add("web-1", compared([*client(), elsewhere(AT + 9000)], is_client=True))
    hosts.add("db-1", compared(arrives, is_client=False), ahead_s=ahead_s)
    assert what(hosts.finding()) == "arrived"


def test_the_close_of_the_other_end_is_before_the_stall_by_the_same_clock(hosts: Hosts) -> None:
    hosts.add("web-1", compared(client(), is_client=True))
    hosts.add("db-1", compared([closed_later(HOUR_MS, 50), elsewhere(AT + 100)], is_client=False), ahead_s=3600)
    assert what(hosts.finding()) == "closed"
    assert "the connection ended at 10:00:50, before this stall began: its process closed it." in hosts.report()


def test_one_connection_alone_may_be_another_one(hosts: Hosts) -> None:
    hosts.add("web-1", [*client(), *orderly(1, AT - 20, is_client=True)])
    hosts.add("db-1", [*SILENT, *orderly(1, AT + 40, is_client=False)])
    found = hosts.finding()
    assert found is not None and "clock_ahead_ms" not in found
    hosts.files.pop()
    hosts.add("db-1", [*SILENT, *orderly(1, AT - 20.1, is_client=False)])
    found = hosts.finding()
    assert found is not None and found["clock_ahead_ms"] == -100


def test_connections_that_contradict_each_other_show_nothing(hosts: Hosts) -> None:
    hosts.add("web-1", [*compared(client(), is_client=True), *orderly(3, AT, is_client=True)])
    others = [*orderly(1, AT - 19, is_client=False), *orderly(2, AT + 18, is_client=False)]
    hosts.add("db-1", [*SILENT, *others, *orderly(3, AT + 60, is_client=False)])
    found = hosts.finding()
    assert found is not None and "clock_ahead_ms" not in found


@pytest.mark.parametrize("is_regular", [False, True])
def test_ports_that_were_used_again_do_not_hide_the_difference(is_regular: bool, hosts: Hosts) -> None:
    """Where each is used again after the same time, the difference may be that time."""
    places = [*range(200)] * 6 if is_regular else Random(1).choices(range(200), k=1200)
    for host, is_client, of in (("web-1", True, client()), ("db-1", False, SILENT)):
        again = [each for n, port in enumerate(places) for each in orderly(port, n / 13, is_client=is_client)]
        hosts.add(host, [*of, *again], ahead_s=0 if is_client else 3600)
    found = hosts.finding()
    assert (found or {}).get("clock_ahead_ms") == (None if is_regular else 3_600_000)


def test_a_difference_that_was_seen_long_ago_is_not_known_any_more(hosts: Hosts) -> None:
    """Clocks drift, and 1h00m is no difference of less than a second."""
    hosts.add("web-1", compared([elsewhere(1), *later(client(), 4 * 3600)], is_client=True))
    hosts.add("db-1", compared([elsewhere(1), *later(SILENT, 4 * 3600)], is_client=False), ahead_s=3600)
    assert hosts.finding() is None


def later(events: list[Event], by_s: int) -> list[Event]:
    by_ns = by_s * SECOND
    return [replace(each, time_ns=each.time_ns + by_ns, ktime_ns=each.ktime_ns + by_ns) for each in events]


@pytest.mark.parametrize("step_s", [-3600, 2, 3600])
def test_a_clock_that_is_set_meanwhile_shows_nothing(step_s: int, hosts: Hosts) -> None:
    events = [opened(), resumed(), closed_later(), elsewhere(AT + 100)]
    after = [
        replace(each, time_ns=each.time_ns + step_s * SECOND) if each.ktime_ns > (AT + 2) * SECOND else each
        for each in events
    ]
    hosts.add("web-1", compared(client(), is_client=True))
    hosts.add("db-1", compared(after, is_client=False))
    assert hosts.finding() is None


def test_a_clock_that_was_set_between_two_runs_is_another_one(hosts: Hosts) -> None:
    hosts.add("web-1", compared(client(), is_client=True))
    hosts.add("db-1", compared([], is_client=False), run="before")
    hosts.add("db-1", SILENT, run="after", ahead_s=0.7)
    found = hosts.finding()
    assert found is not None and "clock_ahead_ms" not in found


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


SECOND_ONE: Fields = {"sock": "second"}


@pytest.mark.parametrize(
    "of_the_second",
    [[opened(60, **SECOND_ONE)], [opened(60, **SECOND_ONE), replace(closed_later(2000, AT + 3), **SECOND_ONE)], []],
    ids=["open", "closed in use", "not recorded"],
)
def test_an_earlier_connection_from_the_same_port_is_another_one(of_the_second: list[Event], hosts: Hosts) -> None:
    began = event("state", 60, old_state="SYN_SENT", new_state="ESTABLISHED", **OWNED)
    stall = [began, *freeze(start=AT, **{**OWNED, "silent_ms": 20_000}), *close(AT + 13.4, **OWNED)]
    first = [opened(1), closed_later(45_000, 50)]
    assert hosts.findings([*first, *of_the_second, elsewhere(AT + 100)], of=stall) is None


def test_two_hosts_with_the_same_stalled_end_are_no_match(hosts: Hosts) -> None:
    hosts.add("web-1", compared(client(), is_client=True))
    hosts.add("web-2", compared(client(), is_client=True))
    hosts.add("db-1", compared(SILENT, is_client=False))
    assert hosts.finding() is None


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


@pytest.mark.parametrize(
    "closes", [1, [1], [[1, 0, 2]], [[1, 0, 2, -1]], [["x", 0, 1, 1]], [[1, 0, 2**62, 2**62]]], ids=str
)
def test_an_invalid_close_is_named_as_damage(
    closes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], hosts: Hosts
) -> None:
    hosts.findings(SILENT)
    lines = shown(capsys, "report", *hosts.files, "--json").splitlines()
    records = [json.loads(line) for line in lines]
    changed = [{**each, "closes": closes} if each.get("report") == "closes" else each for each in records]
    output = tmp_path / "x.json"
    output.write_text("".join(json.dumps(each, separators=(",", ":")) + "\n" for each in changed))
    assert main.run(["report", str(output)]) == 1
    assert "is damaged" in capsys.readouterr().err


def test_closes_take_bounded_memory_and_both_hosts_keep_the_same() -> None:
    near, far = Closes(), Closes()
    for number in range(5000):
        for closes, is_client in ((near, True), (far, False)):
            for each in orderly(number, number, is_client=is_client):
                closes.take("host", each)
    kept = [{ends for _, ends, _ in closes} for closes in (near, far)]
    assert kept[0] == {ends.swapped() for ends in kept[1]} and len(kept[0]) == MAX_CONNECTIONS
    for number in range(3 * MAX_PAIRS):
        ends = Ends(f"10.0.{number >> 8}.{number & 255}", 1, "10.9.9.9", 2)
        near.put(f"host{number}", ends, Close(1, True, number, number))
    assert len(list(near)) <= MAX_PAIRS
    for number in range(3 * MAX_PAIRS_OF_HOST):
        far.put("host", Ends(f"10.0.{number >> 8}.{number & 255}", 1, "10.9.9.9", 2), Close(1, True, number, number))
    assert len(list(far)) == MAX_PAIRS_OF_HOST

"""`tcpwatch report` and the words for stalls, as processes and as functions: what a person reads at night."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import event
from recording_files import header, record
from running import ROOT, tcpwatch
from stall_events import HOUR_MS, OWNED, a_night, close, freeze, heard, reset

from tracer.model.events import Event
from tracer.model.filters import Filter
from tracer.output.owners_advice import merged
from tracer.recordings.header import Header


def test_the_report_of_a_night(tmp_path: Path) -> None:
    shown = tcpwatch("report", record(tmp_path / "night.tw", a_night()))
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    first = " ".join(lines[:2])
    assert first == "db1: 4 stalls, 29 events in 1m23s, from 2027-01-15 09:00:00 on. Times are in UTC+01:00."
    assert lines[3:5] == [
        "UTC     2027-01-15T08:00:00Z to 2027-01-15T08:01:23Z",
        "Stalls  2 idle-drop, 1 packet-loss, 1 path-loss in 3 incidents",
    ]
    rows = [line.split() for line in lines[lines.index("Incidents") + 3 : lines.index("Services") - 1]]
    assert rows == [
        ["09:00:09", "2", "1h01m", "idle-drop", "timed-out", "13.6s"],
        ["php[8506]", "→", "10.66.2.2:3306"],
        ["09:00:59", "1", "10ms", "packet-loss", "recovered", "1.1s"],
        ["-", "10.66.1.2:33356", "→", "10.66.2.2:3306"],
        ["09:01:09", "1", "10ms", "path-loss", "timed-out", "13.6s"],
        ["-", "10.66.1.2:33356", "→", "10.66.2.9:6379"],
    ]
    service = next(line for line in lines if line.endswith("  10.66.2.2:3306"))
    assert service.split() == ["3", "58m00s", "1h01m", "13.6s", "10.66.2.2:3306"]
    assert "If the path has an idle timeout, it is between 58m00s and 1h01m." in shown.stdout
    assert "FortiGate" in shown.stdout, "3600 s lies in between"
    assert "tcp_keepalive_time=" in shown.stdout
    assert "ss -K" not in shown.stdout, "it is over"


def test_the_same_as_json(tmp_path: Path) -> None:
    shown = tcpwatch("report", record(tmp_path / "night.tw", a_night()), "--json")
    records = [json.loads(line) for line in shown.stdout.splitlines()]
    stalls = [each for each in records if each.get("event") == "stall"]
    assert [each["verdict"] for each in stalls] == ["idle-drop", "idle-drop", "packet-loss", "path-loss"]
    services = {each["service"]: each for each in records if each.get("report") == "service"}
    mysql = services["10.66.2.2:3306"]
    assert (mysql["survived_ms"], mysql["fatal_ms"]) == (58 * 60_000, 61 * 60_000)
    assert mysql["verdicts"] == {"idle-drop": 2, "packet-loss": 1}
    assert 3600 in {each["timeout_s"] for each in mysql["known_timeouts"]}
    assert mysql["advice"]
    assert "fatal_ms" not in services["10.66.2.9:6379"], "it was in use"
    assert records[-1] == {
        "report": "summary", "hosts": ["db1"], "events": 29, "first": "2027-01-15T08:00:00.000000Z",
        "last": "2027-01-15T08:01:23.400000Z", "stalls": 4, "lost": 0, "utc_offsets_s": [3600],
    }  # fmt: skip


def test_contradicting_silences_are_no_idle_timeout(tmp_path: Path) -> None:
    events = [heard(0, silent_ms=2 * HOUR_MS, sock="survivor"), *freeze(start=1), *close(14.4)]
    shown = tcpwatch("report", record(tmp_path / "x.tw", events)).stdout
    assert "no single idle timeout explains both" in " ".join(shown.split())
    assert "If the path has an idle timeout" not in shown


def test_lost_events_are_said(tmp_path: Path) -> None:
    lost = event("lost", 1, count=7, hook="tcp_retransmit_skb", sock=None)
    path = record(tmp_path / "x.tw", [lost, *freeze(start=2), *close(15.4)])
    said = " ".join(tcpwatch("report", path).stdout.split())
    assert "Events were lost while recording (7 at tcp_retransmit_skb), so this report may be incomplete." in said
    assert json.loads(tcpwatch("report", path, "--json").stdout.splitlines()[-1])["lost"] == 7


def counters(at: float, **fields: int) -> Event:
    return event(
        "counters", at, sock=None, state=None, family=None, laddr=None, lport=None, raddr=None, rport=None, **fields
    )


def test_the_kernels_counts_stand_beside_what_was_recorded(tmp_path: Path) -> None:
    lost_one = [each for each in freeze() if each.kind != "tlp"]
    counted = counters(20, retrans_segs=6, timeouts=6)
    path = record(tmp_path / "x.tw", [*lost_one, *close(13.4), counted, event(kind="rto", attempt=1, at=30)])
    text = " ".join(tcpwatch("report", path).stdout.split())
    seen = len(lost_one)
    assert (
        f"The kernel counted 6 retransmitted segments ({seen} seen), 0 keepalive probes (0 seen), 6 timeouts" in text
    )
    summary = json.loads(tcpwatch("report", path, "--json").stdout.splitlines()[-1])
    assert summary["counted"] == {"retrans_segs": 6, "keepalives": 0, "timeouts": 6}
    assert summary["seen"]["retrans_segs"] == seen, "without the one after the last count"
    assert "The kernel counted" not in tcpwatch("report", path, "--rport", "3306").stdout


@pytest.mark.parametrize(
    ("recorded", "asked", "is_compared"),
    [
        (Filter(), (), True),
        (Filter(netns=frozenset({4026532000})), (), True),
        (Filter(), ("--netns", "4026532000"), True),
        (Filter(ports=frozenset({3306})), (), False),
        (Filter(events=frozenset({"retransmit", "counters"})), (), False),
        (Filter(), ("-e", "counters"), False),
    ],
    ids=lambda value: str(value) if isinstance(value, tuple) else None,
)
def test_the_kernels_counts_are_compared_with_the_same_connections_only(
    tmp_path: Path, recorded: Filter, asked: tuple[str, ...], is_compared: bool
) -> None:
    counted = counters(20, retrans_segs=4, netns=4026532000)
    path = record(tmp_path / "x.tw", [*freeze(3), counted], header(wanted=recorded))
    said = tcpwatch("report", path, *asked).stdout
    assert ("The kernel counted 4 retransmitted segments (4 seen)" in said) == is_compared
    summary = json.loads(tcpwatch("report", path, *asked, "--json").stdout.splitlines()[-1])
    assert ("counted" in summary, "seen" in summary) == (is_compared, is_compared)


def test_rotated_files_are_counted_together_and_a_killed_run_is_not_mixed_with_the_next(tmp_path: Path) -> None:
    def run(name: str) -> Header:
        return replace(header(), run=name)

    rto = [event(kind="rto", attempt=number, at=number) for number in range(1, 7)]
    files = [
        record(tmp_path / "1.tw", rto[:2], run("a")),
        record(tmp_path / "2.tw", [rto[2], counters(3.5, retrans_segs=3), rto[3]], run("a")),
        record(tmp_path / "3.tw", [rto[4], counters(5.5, retrans_segs=1)], run("b")),
    ]
    summary = json.loads(tcpwatch("report", *files, "--json").stdout.splitlines()[-1])
    assert (summary["counted"]["retrans_segs"], summary["seen"]["retrans_segs"]) == (4, 4)


def test_where_nothing_is_shown_the_reason_is(tmp_path: Path) -> None:
    """What filters leave out was recorded nevertheless."""
    file = record(tmp_path / "a.tw", [event("state", old_state="SYN_SENT", new_state="ESTABLISHED")])
    for arguments in (["--rport", "1"], ["--since", "2028-01-01"], ["--netns", "1"]):
        assert tcpwatch("report", file, *arguments).stdout.splitlines()[0] == "db1: no event to report."
        shown = tcpwatch("replay", file, *arguments)
        assert (shown.stdout, shown.stderr) == ("", "tcpwatch: no event to show\n")
        assert tcpwatch("replay", file, "--json", *arguments).stderr == ""
    hidden = tcpwatch("replay", file)
    assert (hidden.returncode, hidden.stdout) == (0, "")
    assert "no line to show of 1 event: -a also shows healthy connections" in hidden.stderr
    assert tcpwatch("replay", "-a", file).stderr == ""


def test_nothing_recorded_and_nothing_stalled(tmp_path: Path) -> None:
    assert tcpwatch("report", record(tmp_path / "a.tw", [])).stdout == "db1: no event to report.\n"
    quiet = tcpwatch("report", record(tmp_path / "b.tw", [event("state", new_state="CLOSE")])).stdout
    assert " ".join(quiet.split()) == (
        "db1: no stall, 1 event in 0ms, from 2027-01-15 09:00:00 on. Times are in UTC+01:00. "
        "UTC 2027-01-15T08:00:00Z to 2027-01-15T08:00:00Z Diagnosis No connection stalled."
    )


def test_a_stall_that_begins_in_one_file_and_ends_in_the_next(tmp_path: Path) -> None:
    events = freeze(start=0)
    first = record(tmp_path / "1.tw", events[:3])
    second_header = replace(header(), started="2027-01-15T08:00:01.000000Z")
    second = record(tmp_path / "2.tw", [*events[3:], *close(13.4)], second_header)
    shown = tcpwatch("report", first, second).stdout
    assert "1 stall," in shown and "timed-out" in shown


def test_files_of_two_hosts_are_two_stories(tmp_path: Path) -> None:
    first = record(tmp_path / "1.tw", freeze()[:3])
    second = record(tmp_path / "2.tw", freeze()[3:], header(host="db2"))
    shown = tcpwatch("report", first, second).stdout
    assert shown.startswith("db1 and db2: 2 stalls")
    assert shown.count("ongoing") == 2


def test_many_hosts_and_one_without_a_name(tmp_path: Path) -> None:
    files = [
        record(tmp_path / f"{number}.tw", [], header(host=f"db{number}" if number else "")) for number in range(11)
    ]
    shown = tcpwatch("report", *files).stdout
    assert shown.startswith("an unknown host and db1 and db2 and ")
    assert "db7 and 3 other hosts: no event" in " ".join(shown.split())
    assert len(json.loads(tcpwatch("report", "--json", *files).stdout.splitlines()[-1])["hosts"]) == 11


def test_a_recording_with_a_filter_keeps_its_own_stalls(tmp_path: Path) -> None:
    """Of what was filtered the stalls cannot be found again, and need not be."""
    whole = record(tmp_path / "whole.tw", [*freeze(), *close(13.4)])
    stalls = [json.loads(line) for line in tcpwatch("replay", whole, "--json", "-e", "stall").stdout.splitlines()]
    assert [each["phase"] for each in stalls] == ["begin", "end"]
    head = header(Filter(events=frozenset({"stall"})))
    filtered = tmp_path / "filtered.tw"
    filtered.write_text(head.to_line() + "".join(json.dumps(each) + "\n" for each in stalls))
    again = tcpwatch("replay", filtered, "--json").stdout.splitlines()
    assert [json.loads(line) for line in again] == stalls
    assert "1 stall," in tcpwatch("report", filtered).stdout


def test_filters_and_standard_input(tmp_path: Path) -> None:
    path = record(tmp_path / "night.tw", a_night())
    shown = tcpwatch("report", "-", "--rport", "6379", stdin=path.read_bytes()).stdout
    assert "1 stall," in shown and "10.66.2.2" not in shown
    assert "2 stalls," in tcpwatch("report", path, "--comm", "php").stdout


def test_damage_in_the_middle_is_said_after_what_stands_before_it(tmp_path: Path) -> None:
    path = record(tmp_path / "x.tw", [*freeze(), *close(13.4)])
    path.write_bytes(path.read_bytes() + b"{damage}\n" + b"{}\n")
    shown = tcpwatch("report", path)
    assert shown.returncode == 1 and "is damaged" in shown.stderr
    assert "1 stall," in shown.stdout and "timed-out" in shown.stdout


def test_hostile_words_reach_no_table(tmp_path: Path) -> None:
    hostile: dict[str, Any] = {"comm": "\x1b[2Jphp\n", "pid": 1, "raddr": "\x1b]0;x\x07", "sock": "x"}
    path = record(tmp_path / "x.tw", [*freeze(**hostile), *close(13.4, "\x1b[31mE", 1, **hostile)])
    for command in ("report", "replay"):
        shown = tcpwatch(command, path).stdout
        assert all(line.isprintable() for line in shown.splitlines())


def test_a_long_recording_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    def peak_kib(path: Path) -> int:
        program = (
            "import resource, subprocess, sys;"
            "subprocess.run([sys.executable, '-m', 'tracer', 'report', sys.argv[1]], stdout=subprocess.DEVNULL);"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)], capture_output=True, text=True, cwd=ROOT, check=True
        )
        return int(done.stdout)

    def stalls(count: int) -> list[Event]:
        return [
            each
            for number in range(count)
            for each in (
                *freeze(start=number * 20, sock=f"{number:x}", lport=33000 + number % 20000),
                *close(number * 20 + 13.4, sock=f"{number:x}", lport=33000 + number % 20000),
            )
        ]

    short, long = record(tmp_path / "s.tw", stalls(400)), record(tmp_path / "l.tw", stalls(4000))
    longer_kib = (long.stat().st_size - short.stat().st_size) / 1024
    assert longer_kib > 10_000
    # What is remembered is bounded, but these do not reach all of the bounds.
    assert peak_kib(long) - peak_kib(short) < 0.25 * longer_kib
    assert "4,000 stalls" in tcpwatch("report", long).stdout


def test_resets_that_end_idle_connections_are_in_the_bracket(tmp_path: Path) -> None:
    survivor = heard(-1, silent_ms=300_000, sock="survivor")
    events = [survivor, reset(0, silent_ms=350_000), *close(0, "ECONNRESET", 104)]
    (service,) = [
        json.loads(line)
        for line in tcpwatch("report", record(tmp_path / "x.tw", events), "--json").stdout.splitlines()
        if '"report":"service"' in line
    ]
    assert (service["survived_ms"], service["fatal_ms"]) == (300_000, 350_000)
    assert {each["name"] for each in service["known_timeouts"]} & {"AWS NLB", "AWS NAT gateway"}


def test_of_a_file_that_is_not_there_nothing_is_reported(tmp_path: Path) -> None:
    shown = tcpwatch("report", str(tmp_path / "no.tw"))
    assert (shown.returncode, shown.stdout) == (1, "") and "no.tw: no such file" in shown.stderr


def test_a_report_says_how_much_had_no_event(tmp_path: Path) -> None:
    counted = {"sock": None, "keepalives": 0, "timeouts": 0, "netns": 4026532000}
    events = [*freeze(3), event("counters", 5, retrans_segs=7, **counted)]
    path = record(tmp_path / "x.tw", events)
    said = " ".join(tcpwatch("report", path).stdout.split())
    assert "3 retransmitted segments (42.9% of all) had no event: stalls may be missing" in said
    summary = json.loads(tcpwatch("report", path, "--json").stdout.splitlines()[-1])
    assert summary["is_incomplete"] is True
    for quiet in (
        record(tmp_path / "late.tw", [*freeze(3), event("counters", 5, retrans_segs=7, late=True, **counted)]),
        record(tmp_path / "filtered.tw", events, header(wanted=Filter(events=frozenset({"stall", "counters"})))),
        record(tmp_path / "all.tw", [*freeze(3), event("counters", 5, retrans_segs=4, **counted)]),
    ):
        assert "had no event" not in tcpwatch("report", quiet).stdout


def test_two_hosts_are_told_apart(tmp_path: Path) -> None:
    """Also where their connections have equal names, and a stall is still open when the other's recording begins."""
    stalled = [*freeze(15, retries=15, **OWNED)[:6]]
    files = [record(tmp_path / f"{name}.tw", stalled, header(host=name)) for name in ("web-a", "web-b")]
    text = tcpwatch("report", *files).stdout
    rows = [line.split() for line in text.splitlines() if line.startswith("          web-")]
    assert [row[:2] for row in rows] == [["web-a", "php[8506]"], ["web-b", "php[8506]"]]
    (service,) = [line.split() for line in text.splitlines() if line.endswith("  10.66.2.2:3306")]
    assert service[:2] == ["2", "2"], "two stalls on two hosts"
    sentences = " ".join(text.split())
    assert "on web-b: sudo nsenter -t 8506 -n ss -K" in sentences
    assert (
        "Cure php[8506]: keepalive is on, first probe after 2h, on web-b: sudo nsenter -t 8506 -n sysctl" in sentences
    )
    assert "Release php[8506]: on web-b: sudo tcpwatch end --stuck --host 10.66.2.2 --rport 3306" in sentences
    records = [json.loads(line) for line in tcpwatch("report", *files, "--json").stdout.splitlines()]
    assert [each["host"] for each in records if each.get("event") == "stall"] == ["web-a", "web-b"]
    assert [each["hosts"] for each in records if each.get("report") == "service"] == [2]
    one = tcpwatch("report", files[0]).stdout
    assert "HOST" not in one and "on web-a:" in one


def test_connections_that_are_probably_dead_are_listed(tmp_path: Path) -> None:
    others = [
        event("found", 1, kind="idle", sock=f"o{number}", lport=41000 + number, silent_ms=4_000_000 + number, **OWNED)
        for number in range(10)
    ]
    path = record(tmp_path / "x.tw", [*freeze(5, **OWNED), *others, *close(13.4)])
    said = " ".join(tcpwatch("report", path).stdout.split())
    assert "10 other connections were open and silent for longer, and probably dead as well: 10.66.1.2:41009" in said
    assert "php[8506] (1h06m)" in said and ", 2 more." in said
    records = [json.loads(line) for line in tcpwatch("report", path, "--json").stdout.splitlines()]
    (service,) = [each for each in records if each.get("report") == "service"]
    assert len(service["probably_dead"]) == 10


def owned_by(number: int, comm: str | None, pid: int | None, **fields: object) -> list[Event]:
    """A stall that timed out, of a connection of that process to PostgreSQL."""
    name: dict[str, Any] = {
        "sock": f"s{number}", "lport": 40000 + number, "rport": 5432, "pid": pid, "comm": comm, "keepalive": True,
        "pids": None if pid is None else [pid],
        "keepalive_idle_s": 7200, "keepalive_interval_s": 75, "keepalive_idle_own": False, **fields,
    }  # fmt: skip
    return [*freeze(start=number * 20, **name), *close(number * 20 + 13.4, **name)]


def advice_of(path: Path) -> list[str]:
    (service,) = [
        json.loads(line)
        for line in tcpwatch("report", path, "--json").stdout.splitlines()
        if '"report":"service"' in line
    ]
    return list(service["advice"])


def test_the_advice_covers_every_owner_of_a_service(tmp_path: Path) -> None:
    events = [
        *owned_by(0, "php", 8506), *owned_by(1, "python3", 9100), *owned_by(2, "php", 8507),
        *owned_by(3, "python3", 9100, keepalive=False),
    ]  # fmt: skip
    lines = advice_of(record(tmp_path / "x.tw", events, header(host=platform.node())))
    assert len(lines) == len(set(lines))
    assert [line for line in lines if line.startswith("php[8507]: Cure: keepalive is on, ") and "-t 8507 -n" in line]
    assert [line for line in lines if line.startswith("python3[9100]: Keepalive is off on") and "asyncpg" in line]
    assert not any("8506" in line for line in lines), "two workers of one program get one advice"
    assert [line for line in lines if "if this is PDO_PGSQL or pgsql: keepalives_idle=60" in line]
    command = next(number for number, line in enumerate(lines) if "-t 8507 -n sysctl -w" in line)
    (permanent,) = [number for number, line in enumerate(lines) if "To make it permanent" in line]
    assert command < permanent, "what it refers to"


def test_orphans_are_counted_beside_the_advice_for_their_owners(tmp_path: Path) -> None:
    orphans = [owned_by(number, None, None, orphan=True) for number in (1, 2)]
    events = [*owned_by(0, "php", 8506), *orphans[0], *orphans[1]]
    lines = advice_of(record(tmp_path / "x.tw", events))
    assert [line for line in lines if "process any more" in line] == ["2 connections had no process any more."]
    assert [line for line in lines if line.startswith("Cure: keepalive is on, ")], "for the owner, without its name"
    assert not any(line.startswith("php[") for line in lines)
    unknown = owned_by(3, None, None)
    lines = advice_of(record(tmp_path / "z.tw", [*events, *unknown]))
    assert [line for line in lines if line.startswith("10.66.1.2:40003: Cure: keepalive is on, ")], "not an orphan"
    alone = advice_of(record(tmp_path / "y.tw", orphans[0]))
    assert "No process holds this socket any more, so nobody waits for it." in alone


def test_many_owners_are_counted(tmp_path: Path) -> None:
    events = [
        each for number in range(7) for each in owned_by(number, "php", 100 + number, netns=4026532000 + number)
    ]
    lines = advice_of(record(tmp_path / "x.tw", events, header(host=platform.node())))
    assert len([line for line in lines if "sysctl -w" in line and line.startswith("php[10")]) == 4
    assert "3 other owners had such stalls as well." in lines


def test_lines_of_two_owners_keep_their_order() -> None:
    def shown(*owners: tuple[str, list[str]]) -> list[str]:
        return [str(line) for line in merged(owners)]

    both = shown(("a", ["1", "x", "2", "y"]), ("b", ["3", "x", "y", "4"]))
    assert both == ["a: 1", "b: 3", "x", "a: 2", "y", "b: 4"]
    assert shown(("a", ["1", "2"]), ("b", ["2", "1"])) == ["1", "2"]
    assert shown(("a", ["1", "2"])) == ["1", "2"]


def test_what_to_type_on_the_peer_names_no_host_of_ours(tmp_path: Path) -> None:
    lines = advice_of(record(tmp_path / "x.tw", owned_by(0, "dotnet", 1, keepalive=False), header(host="web-a")))
    assert [line for line in lines if "On the peer: sudo sysctl -w" in line]
    assert not any("peer, on web-a" in line or "peer: on web-a" in line for line in lines)

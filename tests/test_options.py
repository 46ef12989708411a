from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path

import pytest

from tracer.act.selection import names_connections
from tracer.cli.hosts import parse_hosts
from tracer.cli.netns import parse_netns
from tracer.cli.options import cli_filter
from tracer.cli.quantities import parse_buffer_size, parse_duration, parse_size
from tracer.cli.types import parse_comm, parse_event, parse_pid, parse_port, parse_ports
from tracer.model.errors import UsageError
from tracer.run.summary import describe


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("2d", 172800),
        ("1.5s", 1.5),
        ("1h1s", 3601),
        ("800ms", 0.8),
        ("1s500ms", 1.5),
        ("90", 90),
        ("0.5", 0.5),
        ("1.5h", 5400),
        ("90S", 90),
        ("1H30m", 5400),
        ("10min", 600),
        ("5minutes", 300),
        ("2days", 172800),
        ("1hour30min", 5400),
        ("90sec", 90),
        ("800msec", 0.8),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10M", "m", "10x", "1h30", "30m1h", "-5s", "1e3s", "١s", "5 m", "9" * 400 + "d"]
)
def test_bad_duration_says_how_to_write_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration(text)
    assert "expected 90s, 10m, 1h30m or 2d" in str(caught.value) and caught.value.hint


@pytest.mark.parametrize(("text", "hint"), [
        ("10M", "10m"), ("5 m", "5m"), ("soon", "10m"), ("-5s", "5s"), (".5", "0.5"), ("1,5h", "1.5h"),
        ("1h30", "1h30m"), ("1m30", "1m30s"), ("2d6", "2d6h"), ("1w", "7d"), ("2 weeks", "14d"), ("-", "10m"),
        ("w", "10m"), ("1h30m30", "1h30m30s"),
    ],
)  # fmt: skip
def test_the_hint_has_the_duration_that_was_meant(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration(text)
    assert caught.value.hint == hint


def test_a_number_that_may_be_hours_needs_a_unit() -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration("24", needs_unit=True)
    assert caught.value.hint == "24s is in seconds, 24h in hours"


def test_port_by_number_and_name() -> None:
    assert parse_port("3306") == 3306
    assert parse_port("http") == 80


@pytest.mark.parametrize(
    "text", ["", "0", "65536", "-1", "99999999999999999999", "no-such-service", "٣", "80-90", "\udcff", "a\0b"]
)
def test_bad_port(text: str) -> None:
    with pytest.raises(UsageError, match="invalid port"):
        parse_port(text)


@pytest.mark.parametrize(
    ("text", "first", "last"), [("3306-3310", 3306, 3310), ("1-65535", 1, 65535), ("7-7", 7, 7), ("80", 80, 80)]
)
def test_ports_of_a_range(text: str, first: int, last: int) -> None:
    assert parse_ports(text) == range(first, last + 1)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("3310-3306", "--port 3306-3310"),
        ("3306-", "--port 3306-65535"),
        ("-3306", "--port 1-3306"),
        ("3306:3310", "--port 3306-3310"),
        ("0-80", "--port 3306,11300 or --port 3306-3310"),
        ("80-65536", "--port 3306,11300 or --port 3306-3310"),
        ("80-90-100", "--port 3306,11300 or --port 3306-3310"),
        ("3306..3310", "--port 3306-3310"),
        (":3306", "--port 3306"),
        (":http", "--port http"),
        ("3306/tcp", "--port 3306"),
        ("3306/TCP", "--port 3306"),
        ("HTTP", "--port http"),
        ("No-Such", "--port 3306,11300 or --port 3306-3310"),
        ("::", "--port 3306,11300 or --port 3306-3310"),
    ],
)
def test_bad_ranges_of_ports(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match="invalid port") as caught:
        parse_ports(text)
    assert caught.value.hint == hint


def test_a_service_with_a_hyphen_is_not_a_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getservbyname", lambda name, _: {"xmpp-client": 5222}[name])
    assert parse_ports("xmpp-client") == range(5222, 5223)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.1.2.3", "10.1.2.3/32"),
        ("10.1.2.3/16", "10.1.0.0/16"),
        ("2001:db8::1", "2001:db8::1/128"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::ffff:10.1.0.0/112", "10.1.0.0/16"),
    ],
)
def test_host(text: str, network: str) -> None:
    assert parse_hosts(text) == (ipaddress.ip_network(network),)


@pytest.mark.parametrize(
    "text", ["", "10.1.2", "0x7f.1", "1", "db:1", "10.1.2.3:3306", "10.1.2.3/33", "fe80::1%eth0/64"]
)
def test_bad_host(text: str) -> None:
    with pytest.raises(UsageError, match="invalid address"):
        parse_hosts(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("10.1.2.3:3306", "--host 10.1.2.3 --port 3306"),
        ("db:3306", "--host db --port 3306"),
        ("[2001:db8::1]", "--host 2001:db8::1"),
        ("[2001:db8::1]:3306", "--host 2001:db8::1 --port 3306"),
        ("fe80::1%eth0", "--host fe80::1"),
        ("[fe80::1%eth0]:80", "--host fe80::1 --port 80"),
        ("http://10.1.2.3/", "--host 10.1.2.3"),
        ("https://db.example.com:8443/x?y=http://z", "--host db.example.com --port 8443"),
        ("postgresql://user:secret@[2001:db8::1]:5432/shop", "--host 2001:db8::1 --port 5432"),
        ("10.1.2", "--host 10.1.2.0/24"),
        ("10.1.2.*", "--host 10.1.2.0/24"),
        ("10.1.", "--host 10.1.0.0/16"),
        ("10.*.*.*", "--host 10.0.0.0/8"),
        *((text, "--host 10.1.2.3, --host 10.1.0.0/16 or --host 2001:db8::/32")
          for text in ("", "*", "10.1.2.300", "300.1", "0x7f.1", "[]", "http://", "10.1.2.3/33")),
    ],
)  # fmt: skip
def test_the_hint_has_the_host_that_was_meant(text: str, hint: str) -> None:
    with pytest.raises(UsageError, match="invalid address") as caught:
        parse_hosts(text)
    assert caught.value.hint == hint


def test_a_name_is_resolved_to_all_its_addresses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    addresses = ["10.1.2.3", "10.1.2.3", "2001:db8::1", "fe80::1%eth0", "::ffff:10.1.2.4"]
    answer = [(0, 0, 0, "", (address, 0)) for address in addresses]
    monkeypatch.setattr("socket.getaddrinfo", lambda name, *_, **__: answer if name == "db.example.com" else [])
    wanted = cli_filter(["--host", "db.example.com,10.9.0.0/16"])
    assert [str(host) for host in wanted.hosts] == [
        "10.1.2.3/32", "2001:db8::1/128", "fe80::1/128", "10.1.2.4/32", "10.9.0.0/16"
    ]  # fmt: skip
    shown = capsys.readouterr()
    assert shown.err == "tcpwatch: host db.example.com: 10.1.2.3, 2001:db8::1, fe80::1, ::ffff:10.1.2.4\n"
    assert shown.out == ""
    assert describe(wanted) == "host db.example.com,10.9.0.0/16"


def test_a_name_that_cannot_be_resolved() -> None:
    with pytest.raises(UsageError, match=r"cannot resolve the host name 'db\.invalid': ") as caught:
        parse_hosts("db.invalid")
    assert "getent ahosts db.invalid" in caught.value.hint


def test_filters_are_described_as_they_were_typed() -> None:
    here = "/proc/self/ns/net"
    wanted = cli_filter(["-p", "3306-3310,11300", "-p", "3311", "--host", "10.1.2.3", "--netns", here])
    assert describe(wanted) == f"port 3306-3311,11300 and host 10.1.2.3 and netns {here}"
    assert wanted.netns == {Path(here).stat().st_ino}
    assert cli_filter(["-p", "80,81"]) == cli_filter(["-p", "80-81"])


def test_a_name_that_is_no_utf8_is_spelled_as_events_have_it() -> None:
    assert parse_comm("php-fpm: pool ü") == "php-fpm: pool ü"
    assert parse_comm("\udcffphp") == "\\xffphp"


def test_bad_event_names_the_good_ones() -> None:
    with pytest.raises(UsageError, match=r"expected retransmit, keepalive, .* or lost") as caught:
        parse_event("retransmist")
    assert caught.value.hint == "--event retransmit"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("STALL", "stall"),
        ("stalls", "stall"),
        ("Retransmits", "retransmit"),
        ("retransmissions", "retransmit"),
        ("window_probes", "window-probe"),
        ("RST", "reset"),
        ("resets", "reset"),
        ("losts", "lost"),
    ],
)
def test_events_in_another_case_or_number(text: str, kind: str) -> None:
    assert parse_event(text) == kind


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("rto", "--event retransmit"),
        ("TLP", "--event retransmit"),
        ("idle-drop", "--event stall"),
        ("keepalive-failed", "--event stall"),
        ("timed-out", "--event stall"),
        ("ETIMEDOUT", "--event error"),
        ("window?", "--event window-probe"),
        ("all", "leave --event out"),
        ("nonsense", "--event stall"),
    ],
)
def test_words_of_the_output_are_answered_with_their_kind(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_event(text)
    assert caught.value.hint == hint


@pytest.mark.parametrize("text", ["", "0", "-1", "php", "99999999999", "4194305"])
def test_bad_pid(text: str) -> None:
    with pytest.raises(UsageError, match="invalid process id"):
        parse_pid(text)


def test_netns_by_inode_and_path() -> None:
    assert parse_netns("4026531840") == 4026531840
    assert parse_netns("/proc/self/ns/net") == Path("/proc/self/ns/net").stat().st_ino


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("no-such-netns", "there is no network namespace 'no-such-netns'"),
        ("/nowhere", "there is no network namespace '/nowhere'"),
        ("a\0b/", "cannot open the network namespace"),
        ("", "invalid network namespace ''"),
        ("0", "invalid network namespace '0'"),
        ("9999999999", "invalid network namespace '9999999999'"),
        ("4294967296", "invalid network namespace '4294967296'"),
        ("/etc/passwd", "'/etc/passwd' is not a namespace"),
        ("/etc", "'/etc' is not a namespace"),
        ("/dev/null", "'/dev/null' is not a namespace"),
        ("/proc/self/ns/mnt", "'/proc/self/ns/mnt' is a namespace of another kind"),
    ],
)
def test_bad_netns(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(complaint)) as caught:
        parse_netns(text)
    assert "ip netns" in caught.value.hint


def test_a_pipe_in_the_place_of_a_namespace_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="is not a namespace"):
        parse_netns(str(tmp_path / "pipe"))


def test_an_empty_process_name() -> None:
    with pytest.raises(UsageError, match="invalid process name ''"):
        parse_comm("")


@pytest.mark.parametrize(("text", "size"),
    [
        ("4096", 4096), ("4k", 4096), ("4K", 4096), ("100M", 100 << 20), ("100m", 100 << 20), ("100MB", 100 << 20),
        ("1G", 1 << 30), ("1.5GiB", 3 << 29), ("1T", 1 << 40), ("9999999999", 9999999999),
    ],
)  # fmt: skip
def test_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "4095", "3k", "-1", "100X", "1h", "9" * 20])
def test_bad_size(text: str) -> None:
    with pytest.raises(UsageError, match="invalid size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "0", "4k", "63k", "2G", "999999999G", "99999999999999"])
def test_bad_buffer_size(text: str) -> None:
    with pytest.raises(UsageError, match="invalid buffer size"):
        parse_buffer_size(text)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["-4", "-6"], "-4 and -6 are mutually exclusive"),
        (["-4", "--host", "::1"], "-4 and --host ::1 are mutually exclusive"),
        (["-6", "--host", "::ffff:10.1.2.3"], "-6 and --host ::ffff:10.1.2.3 are mutually exclusive"),
        (["-6", "--host", "10.0.0.0/8,10.1.2.3"], "-6 and --host 10.0.0.0/8 are mutually exclusive"),
        (["--port", "80", "--lport", "81", "--rport", "82"], "--port matches neither --lport nor --rport"),
        (["--min-idle", "0s"], "--min-idle must be greater than zero"),
        (["--min-idle", "0h0m"], "--min-idle must be greater than zero"),
    ],
)
def test_filters_that_nothing_can_pass(arguments: list[str], complaint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(complaint)):
        cli_filter(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-4", "--host", "::1,127.0.0.1"],
        ["-6", "--host", "::/0"],
        ["--port", "80", "--lport", "81"],
        ["--port", "80,82", "--lport", "81", "--rport", "82"],
        ["--min-idle", "800ms"],
    ],
)
def test_filters_that_something_can_pass(arguments: list[str]) -> None:
    cli_filter(arguments)


def test_a_fraction_of_a_millisecond_is_still_a_silence() -> None:
    assert cli_filter(["--min-idle", "0.4ms"]).min_idle_ms == 1


def test_values_of_a_repeated_option_are_joined() -> None:
    wanted = cli_filter(["-p", "80,443", "-p", "3306", "--host", "10.0.0.1", "--host", "10.0.0.2,10.0.0.3"])
    assert wanted.ports == {80, 443, 3306}
    assert [str(host) for host in wanted.hosts] == ["10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32"]


def test_names_of_owners() -> None:
    wanted = cli_filter(
        ["--container", "db,0f3a0f3a0f3a", "--pod", "prod/web-*", "--unit", "nginx,worker@3.service,a*"]
    )
    assert wanted.containers == {"db", "0f3a0f3a0f3a"}
    assert wanted.pods == {"prod/web-*"}
    assert wanted.units == {"nginx.service", "worker@3.service", "a*"}
    assert describe(wanted) == (
        "container 0f3a0f3a0f3a,db and pod prod/web-* and unit a*,nginx.service,worker@3.service"
    )


@pytest.mark.parametrize("unit", ["system.slice", "*.slice", "backup.timer", "a,multi-user.target"])
def test_a_unit_without_processes_is_refused(unit: str) -> None:
    with pytest.raises(UsageError, match="expected a unit that has processes of its own") as refused:
        cli_filter(["--unit", unit])
    assert unit.split(",")[-1] in str(refused.value) and "worker@*" in refused.value.hint


@pytest.mark.parametrize("option", ["--container", "--pod", "--unit"])
@pytest.mark.parametrize("value", ["", "web,", ","])
def test_a_name_is_not_empty(option: str, value: str) -> None:
    with pytest.raises(UsageError, match=r"invalid (name|unit) ''"):
        cli_filter([option, value])


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--pod", "web"], True),
        (["--unit", "nginx"], True),
        (["--container", "web-*"], True),
        (["--pod", "*"], False),
        (["--pod", "*/*"], False),
        (["--container", "??*"], False),
        (["--unit", "*"], False),
    ],
)
def test_what_may_be_ended_has_a_name(arguments: list[str], names: bool) -> None:
    assert names_connections(cli_filter(arguments)) is names

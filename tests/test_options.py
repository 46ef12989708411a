from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from tracer.errors import UsageError
from tracer.options import parse_comm, parse_duration, parse_event, parse_host, parse_netns, parse_pid, parse_port


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172800), ("1.5s", 1.5), ("1h1s", 3601)]
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "10x", "30m1h", "-5s", "1e3s", "١s", "5 m", "9" * 400 + "d"])
def test_bad_duration_says_how_to_write_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration(text)
    assert "1h30m" in caught.value.hint


def test_port_by_number_and_name() -> None:
    assert parse_port("3306") == 3306
    assert parse_port("http") == 80


@pytest.mark.parametrize(
    "text", ["", "0", "65536", "-1", "99999999999999999999", "no-such-service", "٣", "80-90", "\udcff", "a\0b"]
)
def test_bad_port(text: str) -> None:
    with pytest.raises(UsageError, match="is no port"):
        parse_port(text)


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
    assert parse_host(text) == ipaddress.ip_network(network)


@pytest.mark.parametrize("text", ["", "db.example", "10.1.2", "10.1.2.3/33", "fe80::1%eth0/64"])
def test_bad_host(text: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        parse_host(text)


def test_a_name_that_is_no_utf8_is_spelled_as_events_have_it() -> None:
    assert parse_comm("php-fpm: pool ü") == "php-fpm: pool ü"
    assert parse_comm("\udcffphp") == "\\xffphp"


def test_bad_event_names_the_good_ones() -> None:
    with pytest.raises(UsageError) as caught:
        parse_event("retransmits")
    assert "retransmit, keepalive" in caught.value.hint


@pytest.mark.parametrize("text", ["", "0", "-1", "php", "99999999999"])
def test_bad_pid(text: str) -> None:
    with pytest.raises(UsageError, match="is no process id"):
        parse_pid(text)


def test_netns_by_inode_and_path(tmp_path: Path) -> None:
    file = tmp_path / "ns"
    file.touch()
    assert parse_netns("4026531840") == 4026531840
    assert parse_netns(str(file)) == file.stat().st_ino


@pytest.mark.parametrize("text", ["no-such-netns", "/nowhere", "a\0b/"])
def test_bad_netns(text: str) -> None:
    with pytest.raises(UsageError, match="there is no network namespace"):
        parse_netns(text)

from __future__ import annotations

from typing import Any

import pytest
from builders import event, socket
from hypothesis import given
from hypothesis import strategies as st

from tracer.output.format import duration, endpoint, owner, plural, safe, size


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0ms"),
        (999, "999ms"),
        (1000, "1.0s"),
        (59_999, "59.9s"),
        (60_000, "1m00s"),
        (725_000, "12m05s"),
        (3_599_999, "59m59s"),
        (3_720_000, "1h02m"),
        (86_399_000, "23h59m"),
        (273_600_000, "3d04h"),
    ],
)
def test_duration(ms: int, text: str) -> None:
    assert duration(ms) == text


@given(st.integers(min_value=0, max_value=2**32 * 10))
def test_duration_fits_its_column(ms: int) -> None:
    assert len(duration(ms)) <= 7 and (len(duration(ms)) <= 6 or ms > 99 * 86_400_000)


@given(st.integers(min_value=0, max_value=2**32))
def test_size_fits_its_column(count: int) -> None:
    assert len(size(count)) <= 5


@pytest.mark.parametrize(("count", "text"), [(0, "0"), (99_999, "99999"), (717_656, "700K"), (1 << 30, "1024M")])
def test_size(count: int, text: str) -> None:
    assert size(count) == text


def test_endpoint() -> None:
    assert endpoint("10.1.2.3", 3306) == "10.1.2.3:3306"
    assert endpoint("2001:db8::1", 443) == "[2001:db8::1]:443"
    assert endpoint(None, None) == "*:*"


@given(st.text())
def test_nothing_a_terminal_would_act_on_gets_through(text: str) -> None:
    assert safe(text).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("php-fpm: pool", "php-fpm: pool"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb", "a\\nb"),
        ("\u202egnp", "\\u202egnp"),
        ("Müller 中", "Müller 中"),
        ("\u200b", "\\u200b"),
        ("\u115f\u3164", "\\u115f\\u3164"),
        ("\ud800", "\\ud800"),
        ("\U000e0100", "\\U000e0100"),
        ("\u2800\x9b", "\\u2800\\x9b"),
    ],
)
def test_safe(text: str, shown: str) -> None:
    assert safe(text) == shown


def test_plural() -> None:
    assert (plural(1, "event"), plural(1234, "event")) == ("1 event", "1,234 events")


ID = "0f3a" * 16


@pytest.mark.parametrize(
    ("known", "shown"),
    [
        ({"pids": [7], "pid": 7, "comm": "php"}, "php[7]"),
        ({"pids": [7, 8, 9], "pid": 7, "comm": "php"}, "php[7] +2"),
        ({"pid": 7, "comm": "php"}, "php[7]"),
        ({"pids": [7], "pid": 7, "comm": "gunicorn", "exe": "python3.11"}, "gunicorn[7]"),
        ({"pids": [7], "pid": 7, "comm": "MainThread", "exe": "node"}, "node[7]"),
        ({"pids": [7], "pid": 7, "comm": "MainThread"}, "MainThread[7]"),
        ({"pids": [7], "pid": 7, "exe": "node"}, "node[7]"),
        ({"pids": [7], "pid": 7}, "?[7]"),
        ({"comm": "sh", "exe": "busybox"}, "sh"),
        ({"pid": 7, "comm": "MainThread", "exe": "\x1b[2J"}, "\\x1b[2J[7]"),
        ({}, "-"),
        ({"pid": 7, "comm": "php", "pod": "web-7d9f", "container": ID, "unit": "a.service"}, "pod/web-7d9f php[7]"),
        ({"pid": 7, "comm": "php", "container": ID, "container_name": "db"}, "container/db php[7]"),
        ({"pid": 7, "comm": "php", "container": ID}, "container/0f3a0f3a0f3a php[7]"),
        ({"pid": 7, "comm": "php", "container": "lxc-with-a-name"}, "container/lxc-with-a-name php[7]"),
        ({"pid": 7, "comm": "php", "pod": "\x1b[2J"}, "pod/\\x1b[2J php[7]"),
        ({"pid": 7, "comm": "php", "unit": "worker@3.service"}, "worker@3.service php[7]"),
        ({"pid": 7, "comm": "php", "unit": "user@1000.service/a.service"}, "user@1000.service/a.service php[7]"),
        # What says no more than the name of the process, or the program.
        ({"pid": 7, "comm": "nginx", "unit": "nginx.service"}, "nginx[7]"),
        ({"pid": 7, "comm": "sshd", "unit": "ssh.service"}, "sshd[7]"),
        ({"pid": 7, "comm": "systemd-resolve", "unit": "systemd-resolved.service"}, "systemd-resolve[7]"),
        ({"pid": 7, "comm": "MainThread", "exe": "node", "unit": "node.service"}, "node[7]"),
        ({"pid": 7, "comm": "bash", "unit": "session-3.scope"}, "bash[7]"),
        ({"pid": 7, "comm": "bash", "unit": "user@1000.service"}, "bash[7]"),
        ({"unit": "init.scope"}, "-"),
    ],
)
def test_owner(known: dict[str, Any], shown: str) -> None:
    nobody: dict[str, Any] = {"pids": None, "pid": None, "comm": None}
    assert owner(event(**known)) == owner(socket(**{**nobody, **known})) == shown

"""What tracer/kernel/host.py reads of this machine."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.kernel import host, privileges
from tracer.kernel.program import syscalls
from tracer.model.errors import TcpwatchError


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of /proc, with PID 1 and this process in one network namespace, and one setting of it."""
    for name in ("1/ns", "self/ns", "sys/net/ipv4"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "1/ns/net").write_text("")
    os.link(tmp_path / "1/ns/net", tmp_path / "self/ns/net")
    (tmp_path / "sys/net/ipv4/tcp_retries2").write_text("15\n")
    monkeypatch.setattr(host, "_PROC", tmp_path)
    host.own_netns.cache_clear()
    monkeypatch.setattr(host, "_has_terminal", lambda: False)
    return tmp_path


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """What was read of `proc` is not this machine's."""
    yield
    host.own_netns.cache_clear()


def test_the_settings_of_the_hosts_own_namespace(proc: Path) -> None:
    assert host.tcp_sysctls() == {"net.ipv4.tcp_retries2": 15}


def test_in_another_namespace_there_are_none(proc: Path) -> None:
    """As in a unit with PrivateNetwork=yes: what /proc/sys/net shows there is not the host's."""
    (proc / "self/ns/net").unlink()
    (proc / "self/ns/net").write_text("")
    assert host.tcp_sysctls() == {}


def test_where_the_namespace_of_pid_1_is_hidden_ours_is_taken_for_it(proc: Path) -> None:
    (proc / "1/ns/net").unlink()
    assert host.tcp_sysctls() == {"net.ipv4.tcp_retries2": 15}


def test_the_own_namespace_is_that_of_a_login_shell(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init = (proc / "1/ns/net").stat().st_ino
    assert host.own_netns() == init
    (proc / "self/ns/net").unlink()
    (proc / "self/ns/net").write_text("")
    host.own_netns.cache_clear()
    assert host.own_netns() == init, "a unit with PrivateNetwork=yes: people type elsewhere"
    host.own_netns.cache_clear()
    monkeypatch.setattr(host, "_has_terminal", lambda: True)
    assert host.own_netns() == 0, "in a shell of another namespace, nobody knows where commands are typed"


def test_where_the_namespace_of_pid_1_is_hidden_the_own_one_is_that_of_this_process(proc: Path) -> None:
    (proc / "1/ns/net").unlink()
    assert host.own_netns() == (proc / "self/ns/net").stat().st_ino


@pytest.mark.parametrize(
    ("release", "limit", "hint"),
    [
        ("5.10.0-46-cloud-amd64", 65536, "ulimit -l unlimited"),
        ("5.10.0-46-cloud-amd64", resource.RLIM_INFINITY, "dmesg | tail"),
        ("5.11.0", 65536, "dmesg | tail"),
        ("6.12.1+deb13", 65536, "dmesg | tail"),
    ],
)
def test_what_to_type_where_no_program_is_loaded(
    proc: Path, monkeypatch: pytest.MonkeyPatch, release: str, limit: int, hint: str
) -> None:
    def refuse() -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(syscalls, "raise_limits", lambda: None)
    monkeypatch.setattr(syscalls, "try_load", refuse)
    monkeypatch.setattr(host, "kernel_release", lambda: release)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr(host, "_is_in_user_namespace", lambda: False)
    with pytest.raises(TcpwatchError) as raised:
        host.require_bpf()
    assert raised.value.hint == hint


@pytest.mark.parametrize(
    ("uid", "hint"),
    [
        (1000, "run it again with sudo"),
        (0, "root lacks capabilities here, as in a container; start that with --cap-add=BPF --cap-add=PERFMON"),
    ],
)
def test_sudo_is_no_hint_for_root(uid: int, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(privileges, "effective", lambda: 0)
    with pytest.raises(TcpwatchError, match="CAP_BPF and CAP_PERFMON") as refused:
        host.require_privilege()
    assert refused.value.hint == hint

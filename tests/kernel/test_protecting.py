"""`tcpwatch protect` on the running kernel: idle connections live on, and nothing becomes longer."""

from __future__ import annotations

import errno
import os
import re
import socket as sockets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from churn import LIVES_S, Churn
from protect_command import be_silent, lport, protect, protected, settings_of, timers
from ss_comparison import MAPPED
from user_namespace import container
from watching import AS_NOBODY, PATIENCE_S

from tracer.act.protecting import protect as protect_each
from tracer.lab.namespace import wait_until
from tracer.lab.network import SERVER, SERVER6, Lab
from tracer.lab.peers import Server, embedded_client
from tracer.model.protection import Protection
from tracer.model.sockets import Socket

HERE = Path(__file__).parent
LO = "127.0.0.1"
TTL_S = 3
RAW = {"keepalive": False, "keepalive_idle_s": 7200, "keepalive_interval_s": 75, "keepalive_probes": 9,
       "user_timeout_ms": 0}  # fmt: skip


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(ttl_s=TTL_S, retries2=15) as made:
        yield made


@pytest.fixture
def pair() -> Iterator[tuple[sockets.socket, sockets.socket]]:
    """Both ends of a connection on the loopback device, held by this process: the client's and the server's."""
    with sockets.create_server((LO, 0)) as listener:
        client = sockets.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    with client, accepted:
        yield client, accepted


@pytest.mark.parametrize("host", [SERVER, SERVER6, MAPPED])
def test_an_idle_connection_outlives_the_firewall(lab: Lab, host: str) -> None:
    with (
        Server(lab.server, SERVER6 if host == SERVER6 else SERVER, 3306),
        embedded_client(lab.client, host, 3306, "--no-keepalive") as client,
    ):
        assert client.ask("query")["ok"]
        (row,) = protected("--netns", lab.client.netns, "--rport", "3306", "--idle", "1s")
        assert row["before"] == RAW
        assert (row["action"], row["result"], row["pid"]) == ("protect", "changed", client.pid)
        assert row["after"] == {**row["before"], "keepalive": True, "keepalive_idle_s": 1, "keepalive_interval_s": 1}
        name, due_s = timers(lab.client)[client.connected["lport"]]
        assert name == "keepalive" and due_s <= 1
        be_silent(4 * TTL_S)
        assert lab.sessions(3306), "the firewall still knows it"
        assert client.ask("query", 10)["ok"]
        assert lab.dropped_packets() == 0


def test_without_protection_the_firewall_forgets_it(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        (row,) = protected("--netns", lab.client.netns, "--rport", "3306", "--idle", "2s", "--dry-run")
        assert (row["result"], row["after"]["keepalive_idle_s"]) == ("would-change", 2)
        wait_until(lambda: not lab.sessions(3306), PATIENCE_S, "the session is forgotten: nothing was changed")


def test_a_frozen_call_returns_after_the_user_timeout(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        (row,) = protected("--netns", lab.client.netns, "--rport", "3306", "--idle", "60s", "--user-timeout", "3s")
        assert row["after"]["user_timeout_ms"] == 3000
        lab.drop_everything()
        answer = client.ask("query")
    assert (answer["ok"], answer["error"]) == (False, "ETIMEDOUT")
    assert 2.5 < answer["seconds"] < 10


def test_an_armed_timer_counts_the_silence_so_far(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306, "--no-keepalive") as client:
        assert client.ask("query")["ok"]
        be_silent(5)
        protected("--netns", lab.client.netns, "--rport", "3306", "--idle", "50s")
        _, due_s = timers(lab.client)[client.connected["lport"]]
        assert due_s <= 45


def test_a_timer_that_an_earlier_sysctl_armed(lab: Lab) -> None:
    """The socket follows the sysctl, but its timer does not."""
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        lab.client.set_sysctl("net.ipv4.tcp_keepalive_time", 20)
        lab.client.set_sysctl("net.ipv4.tcp_keepalive_intvl", 5)
        name, due_s = timers(lab.client)[client.connected["lport"]]
        assert (name, due_s > 100) == ("keepalive", True)
        (row,) = protected("--netns", lab.client.netns, "--rport", "3306", "--idle", "60s")
        assert (row["result"], row["before"]) == ("changed", row["after"])
        assert row["after"]["keepalive_idle_s"] == 20 and "sysctl" in row["detail"]
        assert timers(lab.client)[client.connected["lport"]][1] <= 20
        (row,) = protected("--netns", lab.client.netns, "--rport", "3306", "--idle", "60s")
        assert row["result"] == "unchanged"


def test_both_ends_and_nothing_is_loosened(pair: tuple[sockets.socket, sockets.socket]) -> None:
    client, accepted = pair
    tcp = sockets.IPPROTO_TCP
    client.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)
    for option, value in (
        (sockets.TCP_KEEPIDLE, 15), (sockets.TCP_KEEPINTVL, 5), (sockets.TCP_KEEPCNT, 2),
        (sockets.TCP_USER_TIMEOUT, 9000),
    ):  # fmt: skip
        client.setsockopt(tcp, option, value)
    own = settings_of(client)
    before = settings_of(accepted)
    rows = protected("--port", lport(accepted), "--host", LO, "--idle", "60s", "--interval", "10s", "--probes", "3",
                     "--user-timeout", "80s")  # fmt: skip
    by_lport = {row["lport"]: row for row in rows}
    assert by_lport[lport(client)]["result"] == "unchanged" and settings_of(client) == own
    assert by_lport[lport(client)]["before"] == own
    after = {"keepalive": True, "keepalive_idle_s": 60, "keepalive_interval_s": 10, "keepalive_probes": 3,
             "user_timeout_ms": 80_000}  # fmt: skip
    assert by_lport[lport(accepted)]["result"] == "changed"
    assert (by_lport[lport(accepted)]["before"], settings_of(accepted)) == (before, after)
    (again,) = protected("--lport", lport(accepted), "--host", LO, "--idle", "600s", "--user-timeout", "10m")
    assert again["result"] == "unchanged" and settings_of(accepted) == after


def test_a_user_timeout_also_ends_a_connection_to_a_slow_reader(pair: tuple[sockets.socket, sockets.socket]) -> None:
    """Its window is closed, and its kernel answers the probes."""
    client, _ = pair
    client.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            client.send(bytes(1 << 20))
    protected("--lport", lport(client), "--host", LO, "--idle", "60s", "--user-timeout", "2s")
    error = [0]

    def ends() -> bool:
        error[0] = client.getsockopt(sockets.SOL_SOCKET, sockets.SO_ERROR)
        return error[0] != 0

    wait_until(ends, PATIENCE_S, "the kernel gives up")
    assert errno.errorcode[error[0]] == "ETIMEDOUT"


def test_a_dry_run_changes_nothing(pair: tuple[sockets.socket, sockets.socket]) -> None:
    client, _ = pair
    before = settings_of(client)
    done = protect("--lport", lport(client), "--idle", "60s", "--dry-run")
    assert done.returncode == 0 and settings_of(client) == before
    assert "keepalive off → 60s+9x60s" in done.stdout
    assert done.stderr == "tcpwatch: would change 1 connection; nothing was done\n"


def test_a_listener_is_left_alone() -> None:
    """What it has would be inherited by every connection that it accepts."""
    with sockets.create_server((LO, 0)) as listener:
        before = settings_of(listener)
        done = protect("--lport", lport(listener), "--idle", "60s")
        assert settings_of(listener) == before and "no connection matches" in done.stderr


def test_the_process_does_not_notice(lab: Lab) -> None:
    """It is suspended meanwhile, and comes to no processor."""
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        client.stop()
        wait_until(lambda: "\tT (stopped)" in status_of(client.pid), PATIENCE_S, "it is suspended")
        try:
            switches = switches_of(client.pid)
            (row,) = protected("--pid", client.pid, "--rport", "3306", "--idle", "60s")
            assert (row["result"], switches_of(client.pid)) == ("changed", switches)
        finally:
            client.go_on()
        assert client.ask("query")["ok"]


def switches_of(pid: int) -> list[str]:
    """How often it came to the processor: none while it is suspended, even to be stopped."""
    return re.findall(r"ctxt_switches:\t(\d+)", status_of(pid))


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text(encoding="ascii")


def test_a_shared_socket_is_changed_once(lab: Lab) -> None:
    with Server(lab.server, SERVER, 3306):
        argv: list[str | Path] = [
            sys.executable, "-c",
            "import os, socket, sys\n"
            f"s = socket.create_connection(('{SERVER}', 3306))\n"
            "child = os.fork()\n"
            "child and print('ready', flush=True)\n"
            "sys.stdin.read()\n",
        ]  # fmt: skip
        with lab.client.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shared:
            assert shared.stdout is not None and shared.stdout.readline() == "ready\n"
            (row,) = protected("--netns", lab.client.netns, "--rport", "3306", "--idle", "60s")
            assert (row["result"], len(row["pids"])) == ("changed", 2)


def test_multipath_tcp_is_out_of_reach(lab: Lab) -> None:
    with (
        Server(lab.server, SERVER, 3306, "--mptcp"),
        embedded_client(lab.client, SERVER, 3306, "--mptcp") as client,
    ):
        done = protect("--netns", lab.client.netns, "--rport", "3306", "--idle", "60s")
        assert done.returncode == 1 and "a subflow of Multipath TCP" in done.stdout
        assert client.ask("query")["ok"]


def test_a_container_with_a_user_namespace() -> None:
    with container() as (pid, port):
        (row,) = protected("--pid", pid, "--lport", port, "--idle", "60s")
        assert (row["result"], row["after"]["keepalive_idle_s"]) == ("changed", 60)
        (row,) = protected("--pid", pid, "--lport", port, "--idle", "60s")
        assert row["result"] == "unchanged"


def test_no_root() -> None:
    done = protect_as_nobody("--rport", "3306", "--idle", "60s")
    assert done.returncode == 1 and "\nHint: run it again with sudo" in done.stderr


def protect_as_nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*AS_NOBODY, "protect", *arguments], capture_output=True, text=True, timeout=PATIENCE_S)


def test_no_bystander_is_changed_however_fast_descriptors_and_ports_are_taken_again() -> None:
    """A connection lives for some milliseconds, and the choice is older when it is acted on."""
    changed: set[int] = set()
    chosen: set[int] = set()
    gone = 0
    with Churn(range(22000, 22008)) as churn:

        def change_those_of_a_moment_ago() -> bool:
            nonlocal gone
            found = [
                Socket(time_ns=0, laddr=LO, lport=port, raddr=LO, rport=churn.rport, inode=inode, pids=[os.getpid()])
                for port, inode in dict(churn.current).items()
            ]
            chosen.update(each.inode or 0 for each in found)
            time.sleep(LIVES_S / 2)
            outcomes = list(protect_each(found, Protection(60)))
            changed.update(outcome.socket.inode or 0 for outcome in outcomes)
            gone += len(found) - len(outcomes)
            return len(changed) >= 30 and gone >= 30

        wait_until(change_those_of_a_moment_ago, PATIENCE_S, "some are changed in time, and some are gone")
    # A socket that is closed while its duplicate is open keeps its ports until that is closed.
    assert {error.errno for error in churn.errors} <= {errno.EADDRNOTAVAIL}
    assert churn.kept_alive and churn.kept_alive <= changed <= chosen


def test_a_user_timeout_of_the_application_makes_one_lost_probe_fatal(
    pair: tuple[sockets.socket, sockets.socket],
) -> None:
    client, _ = pair
    client.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_USER_TIMEOUT, 30_000)
    (row,) = protected("--lport", lport(client), "--host", LO, "--idle", "60s")
    assert row["after"]["user_timeout_ms"] == 30_000
    assert row["detail"] == "one lost probe ends it, because of its own user timeout of 30.0s"
    (row,) = protected("--lport", lport(client), "--host", LO, "--idle", "10s", "--interval", "5s")
    assert "detail" not in row


def test_a_sysctl_of_zero(lab: Lab) -> None:
    """As an option the kernel does not take it."""
    lab.client.set_sysctl("net.ipv4.tcp_keepalive_time", 0)
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306, "--no-keepalive"):
        (row,) = protected("--netns", lab.client.netns, "--rport", "3306", "--idle", "60s")
    assert (row["result"], row["after"]["keepalive_idle_s"], "detail" in row) == ("changed", 1, False)


def test_what_is_changed_before_the_kernel_refuses_is_shown(
    pair: tuple[sockets.socket, sockets.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a BPF program on the cgroup."""
    client, accepted = pair

    def refuse_idle(held: sockets.socket, *_: object, rearm: bool) -> None:
        held.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("tracer.kernel.keepalive.write", refuse_idle)
    found = Socket(
        time_ns=0, laddr=LO, lport=lport(client), raddr=LO, rport=lport(accepted),
        inode=os.fstat(client.fileno()).st_ino, pids=[os.getpid()],
    )  # fmt: skip
    (outcome,) = protect_each([found], Protection(60))
    assert (outcome.result.value, outcome.detail) == (
        "changed", "the kernel refuses the rest: Operation not permitted",
    )  # fmt: skip
    assert outcome.after is not None and outcome.after.keepalive and outcome.after.keepalive_idle_s == 7200

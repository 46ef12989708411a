"""What stalls look like on the running kernel, one disaster a test: what is said of it, and what must not be said."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from lab.disasters import Forger, cut_cable, power_off, restart
from stalling import IDLE_S, Stalls, ended
from watching import PATIENCE_S

from tracer.analysis.idle_timeouts import IdleTimeoutRange, service_of
from tracer.lab.namespace import wait_until
from tracer.lab.network import CLIENT, SERVER, Lab
from tracer.lab.peers import Client, Server, embedded_client
from tracer.model.events import Event

Trace = Callable[..., Stalls]


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A firewall that forgets nothing by itself, and a client that gives up after some 6.7 s."""
    with Lab(ttl_s=600, retries2=3) as made:
        yield made


@pytest.fixture
def trace(lab: Lab, tmp_path: Path) -> Iterator[Trace]:
    started: list[Stalls] = []

    def start(**options: Any) -> Stalls:
        started.append(Stalls(lab, tmp_path, **options))
        return started[-1]

    yield start
    for each in started:
        each.__exit__()


def be_idle(client: Client) -> None:
    """Ask once, and then nothing for longer than the threshold: waiting is what is tested here."""
    assert client.ask("query")["ok"]
    time.sleep(IDLE_S + 0.1)


def acknowledged_bytes(lab: Lab) -> int:
    """What the server has acknowledged of the client's only connection."""
    (count,) = re.findall(r"bytes_acked:(\d+)", lab.client.run("ss", "-tinHO", "dport", "=", ":3306"))
    return int(count)


def at_client(stalls: list[Event]) -> list[Event]:
    return [each for each in stalls if each.raddr == SERVER]


def at_server(stalls: list[Event]) -> list[Event]:
    return [each for each in stalls if each.laddr == SERVER]


def test_a_forgotten_session(lab: Lab, trace: Trace) -> None:
    """On a connection that was open before anybody watched."""
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        silent_since = time.monotonic()
        seen = trace()
        time.sleep(max(0.0, silent_since + IDLE_S + 0.1 - time.monotonic()))  # the silence is what is tested
        lab.drop_everything()
        idle_ms = (time.monotonic() - silent_since) * 1000
        answer = client.ask("query")
        end = seen.wait_for(phase="end")
    stalls = at_client(seen.stop())
    assert ended(stalls) == ["idle-drop timed-out"]
    begin = stalls[0]
    assert (begin.phase, begin.verdict, begin.retransmits) == ("begin", "idle-drop", 1)
    assert idle_ms - 50 <= (begin.idle_ms or 0) <= idle_ms + 3000
    assert begin.unacked_bytes == 32 and (begin.pid, begin.comm) == (client.pid, "worker")
    assert seen.delay_ms(begin) < 2000, "50 ms when the machine is calm"
    assert (end.error, end.errno, answer["errno"]) == ("ETIMEDOUT", 110, 110)
    assert abs((end.duration_ms or 0) - answer["seconds"] * 1000) < 1500
    # What was foretold came true.
    foretold_ns = begin.ktime_ns + (begin.gives_up_in_ms or 0) * 1_000_000
    late_ms = (end.ktime_ns - foretold_ns) / 1e6
    assert -50 <= late_ms <= (begin.gives_up_window_ms or 0) + 250
    assert begin.advice and any("tcp_keepalive_time" in line for line in begin.advice)
    assert any("ss -K" in line for line in begin.advice), "while it hangs"
    assert not any("ss -K" in line for line in end.advice or ()), "when it is over there is nothing to end"
    # The worker's next connection works: a service of which one silence was fatal.
    assert seen.tracker.idle_timeouts.range_of(service_of(end)) == IdleTimeoutRange(None, begin.idle_ms)


def test_an_active_connection_whose_path_dies(lab: Lab, trace: Trace) -> None:
    seen = trace()
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        client.ask("query")
        lab.drop_everything()
        client.ask("query")
        seen.wait_for(phase="end")
    assert ended(at_client(seen.stop())) == ["path-loss timed-out"]


def test_a_session_that_expires_during_a_query(lab: Lab, trace: Trace) -> None:
    """The worst case: the client has nothing in flight, and waits. Only the server's kernel knows."""
    lab.server.set_sysctl("net.ipv4.tcp_retries2", 3)
    seen = trace()
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("query")["ok"]
        before = acknowledged_bytes(lab)
        client.send(f"slow {IDLE_S + 1}")
        wait_until(lambda: acknowledged_bytes(lab) > before, PATIENCE_S, "the server's kernel has the question")
        lab.drop_everything()
        seen.wait_for(phase="end", laddr=SERVER)
        assert not client.answered()
    stalls = seen.stop()
    assert ended(at_server(stalls)) == ["idle-drop timed-out"]
    assert [each for each in at_client(stalls) if not each.orphan] == [], "nothing is outstanding there"


def test_a_slow_query_is_no_stall(lab: Lab, trace: Trace) -> None:
    seen = trace()
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        client.ask("query")
        assert client.ask(f"slow {IDLE_S + 1}")["ok"]
        resumed = seen.wait_for("resume", raddr=SERVER)
    assert seen.stop() == []
    assert resumed.cause == "data" and (resumed.silent_ms or 0) >= IDLE_S * 1000
    assert seen.tracker.idle_timeouts.range_of(service_of(resumed)).survived_ms == resumed.silent_ms


def test_only_the_way_back_is_dead(lab: Lab, trace: Trace) -> None:
    lab.server.set_sysctl("net.ipv4.tcp_retries2", 3)
    seen = trace()
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        be_idle(client)
        lab.drop_everything(to_server=False)
        client.ask("query")
        seen.wait_for(phase="end", raddr=SERVER)
        seen.wait_for(phase="end", laddr=SERVER)
    stalls = seen.stop()
    assert ended(at_client(stalls)) == ["idle-drop timed-out"]
    assert {each.verdict for each in at_server(stalls)} <= {"no-answer", "packet-loss", "path-loss"}
    assert ended(at_server(stalls)) == ["path-loss timed-out"]
    assert at_server(stalls)[-1].one_way is True, "it hears the client, whose data it has"


def test_a_server_that_vanishes_while_idle(lab: Lab, trace: Trace) -> None:
    seen = trace()
    with (
        Server(lab.server, SERVER, 3306, "--abort") as server,
        embedded_client(lab.client, SERVER, 3306) as client,
    ):
        be_idle(client)
        power_off(lab, server)
        client.ask("query")
        seen.wait_for(phase="end", raddr=SERVER)
    stalls = at_client(seen.stop())
    assert ended(stalls) == ["idle-drop timed-out"], "from here it looks the same"
    assert any("tcpwatch probe" in line and "3306 --connect" in line for line in stalls[0].advice or ()), (
        "how to tell them apart"
    )


@pytest.mark.parametrize("why", ["host-unreachable", "admin-prohibited"])
def test_icmp_says_that_it_is_unreachable(lab: Lab, trace: Trace, why: str) -> None:
    seen = trace()
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        be_idle(client)
        lab.reject(why)
        answer = client.ask("query")
        end = seen.wait_for(phase="end", raddr=SERVER)
    stalls = at_client(seen.stop())
    assert ended(stalls) == ["unreachable unreachable"]
    assert {each.verdict for each in stalls} == {"unreachable"}, "from the first retransmission on"
    assert (end.error, answer["error"], stalls[0].soft_error) == ("EHOSTUNREACH",) * 3
    begin = stalls[0]
    earliest_ns = begin.ktime_ns + (begin.gives_up_in_ms or 0) * 1_000_000
    latest_ns = earliest_ns + (begin.gives_up_window_ms or 0) * 1_000_000
    assert earliest_ns - 50_000_000 <= end.ktime_ns <= latest_ns + 250_000_000


def test_a_cable_that_is_cut(lab: Lab, trace: Trace) -> None:
    seen = trace()
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        client.ask("query")
        cut_cable(lab)
        answer = client.ask("query")
        seen.wait_for(phase="end", raddr=SERVER)
    assert ended(at_client(seen.stop())) == ["unreachable unreachable"]
    assert answer["error"] == "EHOSTUNREACH"


def test_a_host_that_restarts_while_idle(lab: Lab, trace: Trace) -> None:
    seen = trace()
    with (
        Server(lab.server, SERVER, 3306, "--abort") as server,
        embedded_client(lab.client, SERVER, 3306) as client,
    ):
        be_idle(client)
        with restart(lab, server, SERVER, 3306):
            answer = client.ask("query")
            end = seen.wait_for(phase="end", raddr=SERVER)
    assert ended(at_client(seen.stop())) == ["idle-reset reset"]
    assert (answer["error"], end.error, end.retransmits) == ("ECONNRESET", "ECONNRESET", 0)


def test_a_process_that_was_killed_while_idle(lab: Lab, trace: Trace) -> None:
    """Its kernel said so, and the client's socket knows: no middlebox is to blame."""
    seen = trace()
    with Server(lab.server, SERVER, 3306) as server, embedded_client(lab.client, SERVER, 3306) as client:
        be_idle(client)
        server.kill()
        wait_until(lambda: _state(lab, client) == "CLOSE_WAIT", 10, "the client's kernel has the FIN")
        client.ask("query")
        client.ask("query")
        end = seen.wait_for(phase="end", raddr=SERVER)
    assert ended(at_client(seen.stop())) == ["peer-closed reset"]
    assert end.error in ("EPIPE", "ECONNRESET")


def _state(lab: Lab, client: Client) -> str | None:
    return lab.client.believes(int(client.connected["lport"]), 3306)


def test_a_stopped_process_with_a_small_question_is_no_stall(lab: Lab, trace: Trace) -> None:
    seen = trace()
    with Server(lab.server, SERVER, 3306) as server, embedded_client(lab.client, SERVER, 3306) as client:
        client.ask("query")
        server.stop()
        client.send("query")
        time.sleep(IDLE_S + 1)  # that no event comes is what is tested
        assert not client.answered()
        server.go_on()
        assert client.answer()["ok"]
    assert seen.stop() == []


def test_a_stopped_process_with_much_data(lab: Lab, trace: Trace) -> None:
    # A receive buffer may grow to more than what is sent, and then no window ever closes.
    lab.server.set_sysctl("net.ipv4.tcp_rmem", "4096 65536 262144")
    lab.client.set_sysctl("net.ipv4.tcp_wmem", "4096 65536 262144")
    seen = trace()
    with Server(lab.server, SERVER, 3306) as server, embedded_client(lab.client, SERVER, 3306) as client:
        client.ask("query")
        server.stop()
        client.send("send 8000000")
        begin = seen.wait_for(verdict="zero-window", raddr=SERVER)
        server.go_on()
        end = seen.wait_for(phase="end", verdict="zero-window", raddr=SERVER)
        assert client.answer()["ok"]
    stalls = at_client(seen.stop())
    assert {each.verdict for each in stalls} <= {"no-answer", "packet-loss", "zero-window"}
    assert end.verdict == "zero-window" and end.outcome == "recovered"
    assert (begin.snd_wnd, begin.gives_up_at) == (0, None) and (begin.unsent_bytes or 0) > 0


def test_a_client_that_does_not_read_on(lab: Lab, trace: Trace) -> None:
    lab.client.set_sysctl("net.ipv4.tcp_rmem", "4096 65536 262144")
    seen = trace()
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        assert client.ask("download 8000000")["ok"]
        seen.wait_for(verdict="zero-window", laddr=SERVER)
    stalls = seen.stop()
    assert {each.verdict for each in at_server(stalls)} <= {"no-answer", "packet-loss", "zero-window"}
    assert at_server(stalls)[-1].verdict == "zero-window"
    assert at_client(stalls) == [], "it waits for nothing"


def test_loss_is_no_idle_drop(lab: Lab, trace: Trace) -> None:
    seen = trace()
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        be_idle(client)
        client.ask("query")
        lab.lose(20)
        client.ask("busy 8")
        lab.restore()
        client.ask("query")
        wait_until(lambda: not seen.tracker.open_sockets, 30, "every episode has ended")
    stalls = seen.stop()
    assert stalls, "there was loss"
    assert {each.verdict for each in stalls} <= {"no-answer", "packet-loss", "path-loss"}
    assert {each.outcome for each in stalls if each.phase == "end"} == {"recovered"}
    retransmits = len(seen.of("retransmit"))
    assert len(stalls) <= retransmits, "sparingly"


def test_a_single_lost_packet_after_a_long_silence_has_recovered(lab: Lab, trace: Trace) -> None:
    seen = trace()
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        be_idle(client)
        lab.drop_everything()
        client.send("query")
        begin = seen.wait_for(phase="begin", raddr=SERVER)
        lab.restore()
        assert client.answer()["ok"]
        end = seen.wait_for(phase="end", raddr=SERVER)
    assert begin.verdict == "idle-drop" and (end.verdict, end.outcome) == ("packet-loss", "recovered")
    assert seen.tracker.idle_timeouts.range_of(service_of(end)) == IdleTimeoutRange(begin.idle_ms, None), (
        "it was survived"
    )
    seen.stop()


def test_without_looking_at_segments_recovery_is_presumed(lab: Lab, trace: Trace) -> None:
    seen = trace(resume=False)
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        be_idle(client)
        lab.drop_everything()
        client.send("query")
        seen.wait_for(phase="begin", raddr=SERVER)
        lab.restore()
        assert client.answer()["ok"]
        seen.wait_for(phase="end", raddr=SERVER)
    assert ended(at_client(seen.stop())) == ["no-answer presumed"]
    assert seen.of("resume") == []


def test_a_stall_goes_on_where_its_retransmissions_are_missed(lab: Lab, trace: Trace) -> None:
    """A walk over all sockets finds it before anything is presumed."""
    lab.client.set_sysctl("net.ipv4.tcp_retries2", 5)  # 25 s
    seen = trace()
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        be_idle(client)
        lab.drop_everything()
        client.send("query")
        seen.wait_for(phase="begin", raddr=SERVER)
        detach("tcp_retransmit_skb")
        found = seen.wait_for("found", raddr=SERVER)
        answer = client.answer(PATIENCE_S)
        end = seen.wait_for(phase="end", raddr=SERVER)
    stalls = at_client(seen.stop())
    assert ended(stalls) == ["idle-drop timed-out"] and not any(each.revoked for each in stalls)
    assert end.retransmits is not None and end.retransmits >= (found.attempt or 0) >= 2
    assert answer["error"] == "ETIMEDOUT"


def detach(tracepoint: str) -> None:
    """Detach this process' programs from a raw tracepoint: what happens from now on is missed."""
    links = []
    for each in Path("/proc/self/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            links += [int(each.name)] if f"tp_name:\t{tracepoint}\n" in each.read_text() else []
    with Path(os.devnull).open("rb") as nothing:
        (link,) = links
        os.dup2(nothing.fileno(), link)


def test_a_syn_into_a_black_hole(lab: Lab, trace: Trace) -> None:
    lab.client.set_sysctl("net.ipv4.tcp_syn_retries", 1)
    lab.drop_everything()
    seen = trace()
    with embedded_client(lab.client, SERVER, 3306, wait=False) as client:
        answer = client.answer()
        end = seen.wait_for(phase="end", raddr=SERVER)
    stalls = at_client(seen.stop())
    assert ended(stalls) == ["handshake timed-out"]
    assert (answer["error"], end.error, end.idle_ms, end.comm) == ("ETIMEDOUT", "ETIMEDOUT", None, "worker")
    begin = stalls[0]
    late_ms = (end.ktime_ns - begin.ktime_ns) / 1e6 - (begin.gives_up_in_ms or 0)
    assert -50 <= late_ms <= (begin.gives_up_window_ms or 0) + 250


def test_a_syn_that_is_answered_late(lab: Lab, trace: Trace) -> None:
    lab.drop_everything()
    with Server(lab.server, SERVER, 3306):
        seen = trace()
        with embedded_client(lab.client, SERVER, 3306, wait=False) as client:
            seen.wait_for(phase="begin", raddr=SERVER)
            lab.restore()
            assert client.answer()["connected"]
            seen.wait_for(phase="end", raddr=SERVER)
    assert ended(at_client(seen.stop())) == ["handshake recovered"]


def test_a_connection_that_is_refused_is_no_stall(lab: Lab, trace: Trace) -> None:
    seen = trace()
    with embedded_client(lab.client, SERVER, 3306) as client:
        assert client.connected["error"] == "ECONNREFUSED"
    seen.wait_for("error", error="ECONNREFUSED")
    assert seen.stop() == []


def test_a_connection_that_is_prohibited(lab: Lab, trace: Trace) -> None:
    """At once; but an ICMP error that finds connect() still busy with the socket counts only from the next SYN on."""
    lab.reject("admin-prohibited")
    seen = trace()
    with embedded_client(lab.client, SERVER, 3306) as client:
        assert client.connected["error"] == "EHOSTUNREACH"
    seen.wait_for("error", error="EHOSTUNREACH")
    assert set(ended(seen.stop())) <= {"unreachable unreachable"}


def test_a_nat_that_takes_another_port(lab: Lab, trace: Trace) -> None:
    lab.masquerade()
    seen = trace()
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        be_idle(client)
        lab.forget_sessions()
        answer = client.ask("query")
        seen.wait_for(phase="end", raddr=SERVER)
    assert ended(at_client(seen.stop())) == ["idle-reset reset"]
    assert answer["error"] == "ECONNRESET"


def test_a_firewall_that_resets_both_ends_at_expiry(lab: Lab, trace: Trace) -> None:
    seen = trace()
    with (
        Forger(lab) as forger,
        Server(lab.server, SERVER, 3306),
        embedded_client(lab.client, SERVER, 3306) as client,
    ):
        be_idle(client)
        forger.reset(client)
        seen.wait_for(phase="end", raddr=SERVER)
        seen.wait_for(phase="end", raddr=CLIENT)
    stalls = seen.stop()
    assert ended(at_client(stalls)) == ended(at_server(stalls)) == ["idle-reset reset"]
    assert {each.unacked_bytes for each in stalls} == {0}, "nobody had written"


def test_a_firewall_whose_reset_is_inexact(lab: Lab, trace: Trace) -> None:
    """The reset is refused, and changes nothing; the freeze comes with the next write, and the advice knows why."""
    seen = trace()
    with (
        Forger(lab) as forger,
        Server(lab.server, SERVER, 3306),
        embedded_client(lab.client, SERVER, 3306) as client,
    ):
        be_idle(client)
        forger.reset(client, to_server=False, off_by=100)
        refused = seen.wait_for("reset", direction="refused", raddr=SERVER)
        lab.drop_everything()
        client.ask("query")
        seen.wait_for(phase="end", raddr=SERVER)
    stalls = at_client(seen.stop())
    assert ended(stalls) == ["idle-drop timed-out"]
    assert (stalls[0].idle_ms or 0) >= (refused.silent_ms or 0) >= IDLE_S * 1000, "a refused reset is no sign of life"
    assert any("RFC 5961" in line for line in stalls[0].advice or ())


KEEPALIVE = ("--idle", "2", "--interval", "1", "--probes", "3")


def test_probes_that_nobody_answers(lab: Lab, trace: Trace) -> None:
    seen = trace()
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306, *KEEPALIVE) as client:
        client.ask("query")
        lab.drop_everything()
        end = seen.wait_for(phase="end", raddr=SERVER)
    stalls = at_client(seen.stop())
    assert ended(stalls) == ["keepalive-failed timed-out"]
    begin = stalls[0]
    assert (begin.retransmits, end.retransmits, end.error) == (2, 3, "ETIMEDOUT")
    assert abs((begin.idle_ms or 0) - 2000) < 300, "at the first probe"
    late_ms = (end.ktime_ns - begin.ktime_ns) / 1e6 - (begin.gives_up_in_ms or 0)
    assert -50 <= late_ms <= (begin.gives_up_window_ms or 0) + 250


def test_probes_that_are_answered_again(lab: Lab, trace: Trace) -> None:
    seen = trace()
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306, *KEEPALIVE) as client:
        client.ask("query")
        lab.drop_everything()
        seen.wait_for(phase="begin", raddr=SERVER)
        lab.restore()
        seen.wait_for(phase="end", raddr=SERVER)
    assert [each.outcome for each in at_client(seen.stop()) if each.phase == "end"] == ["recovered"]


def test_an_application_with_a_time_out_of_its_own(lab: Lab, trace: Trace) -> None:
    seen = trace()
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        be_idle(client)
        lab.drop_everything()
        client.send("query")
        seen.wait_for(phase="begin", raddr=SERVER)
        client.kill()
        end = seen.wait_for(phase="end", raddr=SERVER)
        # Its orphan goes on retransmitting, and nobody waits for that.
        seen.wait_for("retransmit", count=4, raddr=SERVER)
    stalls = at_client(seen.stop())
    assert ended(stalls) == ["idle-drop closed"] and end.comm == "worker"


def test_a_user_timeout_ends_it_sooner_and_that_is_foretold(lab: Lab, trace: Trace) -> None:
    seen = trace()
    with (
        Server(lab.server, SERVER, 3306),
        embedded_client(lab.client, SERVER, 3306, "--user-timeout", "2000") as client,
    ):
        be_idle(client)
        lab.drop_everything()
        client.ask("query")
        end = seen.wait_for(phase="end", raddr=SERVER)
    begin = at_client(seen.stop())[0]
    late_ms = (end.ktime_ns - begin.ktime_ns) / 1e6 - (begin.gives_up_in_ms or 0)
    assert (end.duration_ms or 0) < 4000
    assert -50 <= late_ms <= (begin.gives_up_window_ms or 0) + 250

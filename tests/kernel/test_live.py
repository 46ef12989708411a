"""A live run from start to end: ready, stop, summary, recording, and nothing left behind."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from leftovers import assert_nothing_left
from traffic import talk
from watching import PATIENCE_S, ROOT, Start, both_ends

from tracer.kernel.clocks import boottime_ns
from tracer.kernel.live import SETTLED_NS, LiveSource
from tracer.kernel.namespaces import Members
from tracer.lab.namespace import wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Server, embedded_client
from tracer.model.filters import Filter
from tracer.recordings.reader import RecordingReader

COMMAND = [sys.executable, "-m", "tracer"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def test_no_event_is_from_before_what_was_complete(lab: Lab) -> None:
    with LiveSource(Filter(netns=frozenset({lab.client.netns})), lambda: False, resume=False) as source:
        batches = iter(source)
        complete_ns = next(batches).until_ns
        # Whoever takes the batches is held up, and then it is time to say what was lost and counted.
        talk(lab)
        ended_ns = boottime_ns()
        wait_until(lambda: boottime_ns() > ended_ns + 2 * SETTLED_NS, 10, "all has settled")
        source._lost_checked = source._counters_checked = float("-inf")
        while not (batch := next(batches)).events or batch.events[0].event == "counters":
            complete_ns = max(complete_ns, batch.until_ns)
    assert batch.events[0].ktime_ns > complete_ns


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_end_is_a_summary(lab: Lab, watch: Start, number: signal.Signals) -> None:
    seen = watch("--netns", both_ends(lab), "--port", "3306")
    talk(lab)
    seen.wait_for(old_state="SYN_SENT")
    said = seen.stop(number).splitlines()
    assert said[0] == f"tcpwatch: tracing port 3306 and netns {both_ends(lab)}"
    assert f"{len(seen.events)} events, 0 lost, on 2 connections in " in said[1]
    assert "of one core" in said[2], "nothing about what the kernel counted, which knows no ports"
    assert_nothing_left()


def test_the_kernels_count_stands_beside_ours(lab: Lab, watch: Start) -> None:
    with Server(lab.server, SERVER, 3306), embedded_client(lab.client, SERVER, 3306) as client:
        client.ask("query")
        seen = watch("--netns", both_ends(lab))
        before = lab.client.counter("TcpRetransSegs")
        lab.drop_everything()
        client.send("query")
        seen.wait_for(4, event="retransmit")
        said = seen.stop()
        ours = len(seen.of(event="retransmit"))
        # One more may come after the end.
        assert ours <= lab.client.counter("TcpRetransSegs") - before <= ours + 1
        assert f"the kernel counted {ours} retransmitted segments ({ours} seen), " in said
        assert "of all connections of 2 network namespaces" in said


def test_a_duration(lab: Lab) -> None:
    began = time.monotonic()
    shown = subprocess.run(
        [*COMMAND, "--netns", both_ends(lab), "--duration", "1s"],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert (shown.returncode, shown.stdout) == (0, "")
    assert time.monotonic() - began >= 1


def test_systemd_is_told_when_every_hook_is_attached(lab: Lab, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(PATIENCE_S)
        running = subprocess.Popen(
            [*COMMAND, "--netns", both_ends(lab), "--json"],
            cwd=ROOT, env={**ENVIRONMENT, "NOTIFY_SOCKET": str(tmp_path / "notify")},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert notify.recv(100) == b"READY=1"
            talk(lab)
            assert running.stdout is not None and '"new_state":"SYN_SENT"' in running.stdout.readline()
        finally:
            running.terminate()
            running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 0


def test_nobody_reads_any_more(lab: Lab) -> None:
    """`tcpwatch | head -1` ends without waiting for another event."""
    running = subprocess.Popen(
        [*COMMAND, "--netns", both_ends(lab)],
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stderr is not None and running.stdout is not None
    assert "tracing" in running.stderr.readline()
    running.stdout.close()
    assert running.wait(PATIENCE_S) == 0
    said = running.stderr.read()
    running.stderr.close()
    assert "Traceback" not in said and "0 events" in said


def test_record_shows_nothing_and_keeps_everything(lab: Lab, watch: Start, tmp_path: Path) -> None:
    recording = tmp_path / "x.tw"
    running = subprocess.Popen(
        [*COMMAND, "record", "-o", str(recording), "--netns", both_ends(lab)],
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stderr is not None and "tracing" in running.stderr.readline()
    beside = watch("--netns", both_ends(lab))
    talk(lab)
    beside.wait_for(old_state="FIN_WAIT2", new_state="CLOSE")
    beside.stop()
    running.send_signal(signal.SIGINT)
    shown, _ = running.communicate(timeout=PATIENCE_S)
    assert (running.returncode, shown) == (0, "")
    replayed = subprocess.run(
        [*COMMAND, "replay", str(recording), "--json"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    # Two instances at once see the same.
    assert replayed.stdout.count("\n") == len(beside.events)


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8])
def test_stopped_at_any_moment_of_the_start(lab: Lab, delay_s: float, tmp_path: Path) -> None:
    """Of the first start, which compiles."""
    running = subprocess.Popen(
        [*COMMAND, "--netns", both_ends(lab)],
        cwd=ROOT, env={**ENVIRONMENT, "CACHE_DIRECTORY": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(delay_s)  # the moments are what is tested
    running.send_signal(signal.SIGINT)
    shown, said = running.communicate(timeout=PATIENCE_S)
    # Before our own code runs at all it is Python that is interrupted.
    is_pythons = running.returncode == -signal.SIGINT or said.startswith("Fatal Python error: init_")
    assert running.returncode == 0 or (is_pythons and delay_s < 0.3), said
    assert shown == ""
    assert "Traceback" not in said or delay_s < 0.3
    assert_nothing_left()


def test_a_kept_program_that_is_damaged_is_compiled_again(tmp_path: Path) -> None:
    for _ in range(2):
        shown = subprocess.run(
            [*COMMAND, "--duration", "10ms", "--port", "9"],  # nobody's
            cwd=ROOT, env={**ENVIRONMENT, "CACHE_DIRECTORY": str(tmp_path)},
            capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
        assert (shown.returncode, shown.stdout) == (0, ""), shown.stderr
        (kept,) = tmp_path.iterdir()
        kept.write_bytes(kept.read_bytes()[:1000])


def test_killed_it_leaves_nothing_in_the_kernel(lab: Lab, watch: Start) -> None:
    watch("--netns", both_ends(lab)).kill()
    assert_nothing_left()


def test_events_do_not_wait_for_the_counters(lab: Lab) -> None:
    """Which may take seconds where there are thousands of network namespaces."""
    may_go_on = threading.Event()
    with LiveSource(Filter(netns=frozenset({lab.client.netns})), lambda: may_go_on.is_set()) as source:
        find_members = source.counters._find

        def late() -> dict[int, Members]:
            may_go_on.wait()
            return find_members()

        source.counters._find = late
        source._counters_checked = float("-inf")
        batches = iter(source)
        while not source.counters.is_counting:
            next(batches)
        talk(lab)
        states = 0
        while states < 4:
            states += sum(event.event == "state" for event in next(batches).events)
        assert source.counters.is_counting
        may_go_on.set()
        for _ in batches:
            pass
        assert lab.client.netns in source.counters.since_start


def test_what_finds_no_room_is_counted(lab: Lab) -> None:
    stop = False
    wanted = Filter(netns=frozenset({lab.client.netns, lab.server.netns}))
    with LiveSource(wanted, lambda: stop, ring_bytes=mmap.PAGESIZE) as source:
        talk(lab, times=10)  # and nobody takes anything out of the ring
        stop = True
        events = [event for batch in source for event in batch.events]
    lost = [event for event in events if event.event == "lost"]
    assert {event.hook for event in lost} <= {"inet_sock_set_state", "tcp_send_reset", "tcp_receive_reset"}
    kept = len(events) - len(lost)
    # Ten connections have at least eight changes of state each, of which a page holds some twenty.
    assert 0 < kept < 30
    assert sum(event.count or 0 for event in lost) >= 80 - kept
    assert {event.cause for event in lost} == {"full"}
    for event in lost:
        # A page holds no whole number of records.
        assert event.ring_percent == 0 and 90 <= (event.ring_peak_percent or 0) <= 100
        assert event.duration_ms is not None and 0 <= (event.unread_ms or 0) <= event.duration_ms + 1


def test_a_long_recording_rotates_reopens_and_survives_being_killed(lab: Lab, watch: Start, tmp_path: Path) -> None:
    """By SIGHUP, and by kill -9 with a file open: every event is in one of the files, once and in order."""
    running = subprocess.Popen(
        [*COMMAND, "record", "-o", str(tmp_path / "x.tw.gz"), "--rotate-size", "1G", "--netns", both_ends(lab)],
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stderr is not None and "tracing" in running.stderr.readline()
    beside = watch("--netns", both_ends(lab))
    talk(lab)
    running.send_signal(signal.SIGHUP)
    assert running.stderr.readline().startswith(f"tcpwatch: recording to {tmp_path}/x-")
    talk(lab)
    beside.wait_for(2, old_state="FIN_WAIT2", new_state="CLOSE")
    beside.stop()
    seen = {(each["ktime_ns"], each["event"]) for each in beside.events}

    def recorded() -> list[tuple[int, str]]:
        events = []
        for path in sorted(tmp_path.glob("x-*.tw.gz")):
            with RecordingReader(path, lambda text: None) as reader:
                events += [(each.ktime_ns, each.event) for batch in reader for each in batch.events]
        return events

    wait_until(lambda: len(recorded()) >= len(seen), PATIENCE_S, "all was flushed")
    running.kill()
    running.communicate(timeout=PATIENCE_S)
    assert len(list(tmp_path.glob("x-*"))) == 2
    assert recorded() == sorted(recorded()) and {event for _, event in recorded()} == {"state"}
    assert len(recorded()) == len(seen)
    assert_nothing_left()

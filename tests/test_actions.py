"""Messages of acting commands: who may send them, what is in them, and what becomes of the sockets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tracer.act import announcing
from tracer.act.announcing import Announcer
from tracer.kernel.action_sockets import MAX_BYTES, Inbox, Message, Unusable
from tracer.lab.namespace import wait_until
from tracer.model.events import Batch, Event
from tracer.output.event_line import Columns
from tracer.output.view import View
from tracer.run.actions import Actions, fields_of

RECORD: dict[str, Any] = {
    "laddr": "10.0.0.1", "lport": 47720, "raddr": "10.0.0.2", "rport": 3306, "netns": 9, "action": "end",
    "result": "ended", "comm": "php", "pid": 8, "by_user": "alice", "silent_ms": 75_000, "unacked_bytes": 34,
}  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "run"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def actions(directory: Path) -> Iterator[Actions]:
    made = Actions(Inbox(directory))
    yield made
    made.close()


def batches(count: int = 200) -> Iterator[Batch]:
    """An idle source, until what was sent has been received."""
    for _ in range(count):
        time.sleep(0.005)
        yield Batch([], time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 1_000_000)


def received(actions: Actions, count: int) -> list[Event]:
    found: list[Event] = []
    for batch in actions.among(batches()):
        found += batch.events
        if len(found) >= count:
            break
    return found


def send(directory: Path, data: bytes, times: int = 1) -> None:
    (path,) = directory.iterdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for _ in range(times):
            sender.sendto(data, str(path))


def test_an_action_is_an_event(directory: Path, actions: Actions) -> None:
    with Announcer(directory) as announcer:
        announcer.add(json.dumps({**RECORD, "time": "ignored", "inode": 4}))
        announcer.add(json.dumps({**RECORD, "result": "would-end"}))
    (event,) = received(actions, 1)
    assert (event.event, event.action, event.result, event.by_pid) == ("action", "end", "ended", os.getpid())
    assert event.by_user is not None and event.sock is None
    line = Columns(80).lines(event, 0)[0]
    assert line[8:].startswith(" ACTION end: ended") and "php[8]" in line and len(line) <= 80


def test_an_action_has_the_socket_of_a_recent_event(actions: Actions, directory: Path) -> None:
    ends = {name: RECORD[name] for name in ("laddr", "lport", "raddr", "rport", "netns")}
    seen = Event(time_ns=1, ktime_ns=1, event="retransmit", sock="abc", **ends)
    send(directory, json.dumps(RECORD).encode())

    def source() -> Iterator[Batch]:
        yield Batch([seen], 0)
        yield from batches()

    found = (event for batch in actions.among(source()) for event in batch.events if event.event == "action")
    assert next(found).sock == "abc"


def test_many_actions_at_once_all_arrive(directory: Path, actions: Actions) -> None:
    with Announcer(directory) as announcer:
        for port in range(1000):
            announcer.add(json.dumps({**RECORD, "lport": port}))
    assert [event.lport for event in received(actions, 1000)] == list(range(1000))


def test_a_tracer_that_takes_nothing_delays_no_command(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcing, "PATIENCE_S", 0.2)
    inbox = Inbox(directory)
    began_s = time.monotonic()
    with Announcer(directory) as announcer:
        for _ in range(2000):
            announcer.add(json.dumps(RECORD))
        assert time.monotonic() - began_s < 5
    inbox.end()
    inbox.close()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff", b"[]", b"1", b"{}", b"[" * 5000, json.dumps({**RECORD, "action": "reboot"}).encode(),
        json.dumps({**RECORD, "lport": "x"}).encode(), json.dumps({**RECORD, "result": "x" * 1000}).encode(),
        json.dumps({**RECORD, "netns": None}).encode(), json.dumps({**RECORD, "before": {"keepalive": []}}).encode(),
        json.dumps({**RECORD, "lport": -1}).encode(), json.dumps({**RECORD, "pids": ["x"]}).encode(),
        json.dumps({**RECORD, "detail": "x" * 5000}).encode(),
        json.dumps({**RECORD, "rtt_ms": float("nan")}).encode(),
    ],
)  # fmt: skip
def test_an_invalid_message_is_ignored(data: bytes) -> None:
    assert fields_of(Message(data, 7)) is None


def test_a_sender_cannot_choose_what_only_tcpwatch_knows() -> None:
    fields = fields_of(
        Message(json.dumps({**RECORD, "sock": "x", "by_pid": 1, "event": "stall", "id": "x"}).encode(), 7)
    )
    assert fields is not None and fields["by_pid"] == 7
    assert fields.keys().isdisjoint({"sock", "event", "id"})


def test_a_message_that_is_too_long_is_ignored(directory: Path, actions: Actions) -> None:
    send(directory, json.dumps({**RECORD, "padding": "x" * MAX_BYTES}).encode())
    send(directory, json.dumps({**RECORD, "lport": 1}).encode())
    assert [event.lport for event in received(actions, 1)] == [1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_not_believed(tmp_path: Path) -> None:
    directory = Path("/tmp") / f"tcpwatch-test-{os.getpid()}"
    directory.mkdir(mode=0o700)
    actions = Actions(Inbox(directory))
    try:
        (path,) = directory.iterdir()
        directory.chmod(0o755)
        path.chmod(0o777)
        data = json.dumps(RECORD).encode()
        program = (
            "import socket; sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
            f"sender.sendto({data!r}, {str(path)!r})"
        )
        argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", program]
        subprocess.run(argv, check=True, cwd="/")
        send(directory, json.dumps({**RECORD, "lport": 1}).encode())
        assert [event.lport for event in received(actions, 1)] == [1]
    finally:
        actions.close()
        directory.rmdir()


def test_a_directory_that_others_may_enter_is_not_used(directory: Path) -> None:
    directory.chmod(0o750)
    with pytest.raises(Unusable, match="others than its user"):
        Inbox(directory)
    assert list(directory.iterdir()) == []


def test_a_link_to_a_directory_is_not_used(directory: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(directory)
    with pytest.raises(OSError):
        Inbox(link)
    with Announcer(link) as announcer:
        announcer.add(json.dumps(RECORD))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_not_used(directory: Path) -> None:
    os.chown(directory, 65534, 65534)
    with pytest.raises(Unusable):
        Inbox(directory)


def test_a_missing_directory_is_made_and_a_command_does_without(tmp_path: Path) -> None:
    with Announcer(tmp_path / "none") as announcer:
        announcer.add(json.dumps(RECORD))
    assert not (tmp_path / "none").exists()
    inbox = Inbox(tmp_path / "none")
    assert (tmp_path / "none").stat().st_mode & 0o777 == 0o700
    inbox.end()
    inbox.close()
    assert list((tmp_path / "none").iterdir()) == []


def test_only_the_sockets_of_dead_tracers_are_removed(directory: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from tracer.kernel.action_sockets import Inbox; "
        f"Inbox(Path({str(directory)!r})); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    (dead,) = directory.iterdir()
    (directory / "notes").write_text("kept")
    first, second = Inbox(directory), Inbox(directory)
    assert not dead.exists()
    assert len(list(directory.iterdir())) == 3
    for inbox in (first, second):
        inbox.end()
        inbox.close()
    assert [path.name for path in directory.iterdir()] == ["notes"]


def test_closing_wakes_the_thread(directory: Path) -> None:
    actions = Actions(Inbox(directory))
    actions.close()
    wait_until(lambda: not any(each.name == "actions" for each in threading.enumerate()), 10, "its end")


@pytest.mark.parametrize(
    ("action", "result", "is_shown"),
    [
        ("probe", "alive", False), ("probe", "no-answer", True), ("probe", "reset", True), ("probe", "busy", False),
        ("end", "ended", True), ("protect", "changed", True),
    ],
)  # fmt: skip
def test_the_default_view(action: str, result: str, is_shown: bool) -> None:
    event = Event(time_ns=1, ktime_ns=1, event="action", action=action, result=result)
    assert View(shows_all=False, min_idle_ms=60_000).shows(event) is is_shown
    assert View(shows_all=True, min_idle_ms=60_000).shows(event)

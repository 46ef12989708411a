"""A recording into a pipe, a terminal or a device: whatever the reader does, the run goes on."""

from __future__ import annotations

import gzip
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from builders import event
from recording_files import HEADER

from tracer.model.errors import TcpwatchError, UsageError
from tracer.model.events import Event
from tracer.recordings import stream, targets
from tracer.recordings.rotation import Rotation
from tracer.recordings.stream import StreamWriter
from tracer.recordings.targets import is_stream, open_stream
from tracer.run.recording import Destination, Recording
from tracer.run.stopping import Stop


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.fixture
def stop() -> Stop:
    return Stop(reopens=True)


def numbers(count: int, begin: int = 0) -> list[Event]:
    return [event(at=number, attempt=number, kind="rto") for number in range(begin, begin + count)]


def begun(path: Path, reader: int, gone: list[str]) -> StreamWriter:
    assert reader
    fd = open_stream(path)
    assert fd is not None
    return StreamWriter(path, fd, HEADER, say=gone.append, gone=lambda: gone.append("gone"))


def everything(reader: int) -> bytes:
    text = b""
    while piece := os.read(reader, 1 << 16):
        text += piece
    os.close(reader)
    return text


def test_what_a_slow_reader_has_no_room_for_is_counted(fifo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_WAITING", 100_000)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = begun(fifo, reader, [])
    for begin in range(0, 3000, 10):
        writer.write(numbers(10, begin))
        writer.flush()
    os.set_blocking(reader, True)
    shown: list[bytes] = []
    thread = threading.Thread(target=lambda: shown.append(everything(reader)))
    thread.start()
    until = time.monotonic() + 30
    while writer._waiting and time.monotonic() < until:
        writer.flush()
    writer.write(numbers(10, 3000))
    writer.close()
    thread.join()
    header, *records = map(json.loads, shown[0].splitlines())
    assert header["format"] == "tcpwatch"
    seen = 0
    for each in records:
        if each["event"] == "lost":
            assert each["hook"] == "recording"
            seen += each["count"]
        else:
            assert each["attempt"] == seen, "each is there, or was counted where it is missing"
            seen += 1
    assert seen == 3010


def test_a_reader_that_has_stopped_is_left_with_whole_lines(fifo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CLOSE_S", 0.2)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = begun(fifo, reader, [])
    writer.write(numbers(1000))
    with pytest.raises(TcpwatchError, match=r"did not take the last [\d,]+ events") as caught:
        writer.close()
    text = everything(reader)
    lines = text.splitlines()[1:]
    assert text.endswith(b"\n") and f"last {1000 - len(lines):,} events" in str(caught.value)
    writer.close()


def test_a_compressed_stream_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "fifo.gz"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = begun(path, reader, [])
    writer.write(numbers(100))
    writer.close()
    assert len(gzip.decompress(everything(reader)).splitlines()) == 101


def test_a_reader_that_goes_away(fifo: Path) -> None:
    gone: list[str] = []
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = begun(fifo, reader, gone)
    writer.flush()
    assert gone == []
    os.close(reader)
    writer.flush()
    assert gone == [f"the reader of {fifo} closed it: the recording ends here", "gone"]
    writer.write(numbers(10))
    writer.flush()
    writer.close()
    assert len(gone) == 2


def test_nobody_reads_a_fifo(fifo: Path) -> None:
    assert is_stream(fifo) and open_stream(fifo) is None


def test_what_is_no_place_for_a_recording(tmp_path: Path) -> None:
    import socket

    with pytest.raises(TcpwatchError, match="it is a directory"):
        is_stream(tmp_path)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket"))
        with pytest.raises(TcpwatchError, match="it is a socket"):
            is_stream(tmp_path / "socket")
    assert not is_stream(tmp_path / "new") and is_stream(Path("/dev/null"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a FIFO of another user")
@pytest.mark.parametrize("mode", [0o1777, 0o775, 0o755])
@pytest.mark.parametrize("depth", ["", "below/"])
def test_whose_fifo_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, depth: str) -> None:
    shared = tmp_path / "shared"
    (shared / depth).mkdir(parents=True)
    fifo = shared / depth / "fifo"
    os.mkfifo(fifo)
    assert is_stream(fifo), "root's own"
    os.chown(fifo, 65534, 65534)
    # pytest's directories lie in /tmp.
    monkeypatch.setattr(
        targets, "_directories", lambda path: [each for each in path.parents if shared in (each, *each.parents)]
    )
    shared.chmod(mode)
    if mode == 0o755:
        assert is_stream(fifo), "where only its owner, or root, can have put it"
        return
    with pytest.raises(TcpwatchError, match="belongs to user 65534, in a directory that others can write to"):
        is_stream(fifo)
    monkeypatch.setenv("SUDO_UID", "65534")
    assert is_stream(fifo), "of whoever typed sudo"


def test_a_link_in_a_shared_directory_is_not_followed(tmp_path: Path, fifo: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "link").symlink_to(fifo)
    assert is_stream(shared / "link")
    shared.chmod(0o1777)
    with pytest.raises(TcpwatchError, match="symbolic link"):
        is_stream(shared / "link")


def test_descriptors_that_we_were_given() -> None:
    """As `>(…)` makes them."""
    reader, writer = os.pipe()
    assert is_stream(Path(f"/dev/fd/{writer}"))
    fd = open_stream(Path(f"/dev/fd/{writer}"))
    assert fd is not None
    for each in (reader, writer, fd):
        os.close(each)


def test_a_recording_in_what_is_shown_is_refused(stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    kept = os.dup(1)
    try:
        os.dup2(writer, 1)
        with pytest.raises(UsageError, match="is standard output, where events are printed"):
            Destination(Recording(Path("/dev/stdout")), stop, "db1", shows=True, say=print)
        with Destination(Recording(Path("/dev/stdout")), stop, "db1", shows=False, say=print) as destination:
            assert destination.is_ready
    finally:
        os.dup2(kept, 1)
        for each in (kept, reader, writer):
            os.close(each)


def test_waiting_for_a_reader_ends_with_the_run(stop: Stop, fifo: Path) -> None:
    said: list[str] = []
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    with Destination(Recording(fifo), stop, "db1", shows=False, say=said.append) as destination:
        assert not destination.is_ready
    assert said == [f"waiting for a reader of {fifo}"]


def test_a_hang_up_before_there_is_a_recording_is_remembered(stop: Stop) -> None:
    asked: list[int] = []
    os.kill(os.getpid(), signal.SIGHUP)
    stop.on_hang_up(lambda: asked.append(1))
    assert asked == [1] and not stop.was_asked
    os.kill(os.getpid(), signal.SIGHUP)
    assert asked == [1, 1] and not stop()


def test_nohup_is_respected(stop: Stop) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    Stop()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize("name", ["a dir", "a fifo", "/dev/null", "/", ".."])
def test_what_cannot_be_followed_by_another_file(stop: Stop, tmp_path: Path, name: str) -> None:
    """Otherwise there would be a series beside it, and nothing in it."""
    (tmp_path / "a dir").mkdir()
    os.mkfifo(tmp_path / "a fifo")
    before = set(tmp_path.parent.iterdir())
    recording = Recording(tmp_path / name, Rotation(every_s=1))
    with pytest.raises(TcpwatchError, match=r"is a directory|it is a FIFO or a device") as caught:
        Destination(recording, stop, "db1", shows=False, say=print)
    assert caught.value.hint and set(tmp_path.parent.iterdir()) == before


def test_a_name_that_is_too_long_is_refused_before_the_start(stop: Stop, tmp_path: Path) -> None:
    with pytest.raises(TcpwatchError, match=r"cannot create .*: File name too long") as caught:
        Destination(Recording(tmp_path / ("x" * 256)), stop, "db1", shows=False, say=print)
    assert caught.value.hint == "choose a shorter name"

"""The listener answers GET /metrics whatever other clients do, and the file is replaced as a whole."""

from __future__ import annotations

import errno
import fcntl
import http.client
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tracer.model.errors import TcpwatchError, UsageError
from tracer.output.metrics import listener
from tracer.output.metrics.listener import Address, Listener, bind, url
from tracer.output.metrics.textfile import OPENING, Textfile, cannot_write

METRICS = OPENING + b"x y\n" * 20_000
PATIENCE_S = 30


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A listener whose clients have two seconds."""
    monkeypatch.setattr(listener, "DEADLINE_S", 2.0)
    listening = bind(Address("127.0.0.1", 0))
    number = listening.getsockname()[1]
    served = Listener(listening, lambda: METRICS, lambda: None)
    yield number
    served.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", number), 1)


def ask(port: int, method: str = "GET", path: str = "/metrics", **options: object) -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    connection.request(method, path, **options)  # type: ignore[arg-type]
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.getheader("Content-Type")


def raw(port: int, request: bytes) -> bytes:
    """Send these bytes; everything that comes back until the end."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
        client.sendall(request)
        while data := client.recv(65536):
            answer += data
    return answer


def test_a_scrape(port: int) -> None:
    assert ask(port) == (200, METRICS, "text/plain; version=0.0.4; charset=utf-8")
    assert ask(port, path="/metrics?name=x")[0] == 200


def test_everything_else_is_refused(port: int) -> None:
    for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
        assert ask(port, method)[0] == 405, method
    assert ask(port, "POST", body=b"x" * 200_000)[0] == 405
    for path in ("/", "/metric", "/metrics/", "/../metrics", "/debug/pprof"):
        assert ask(port, path=path)[0] == 404, path
    assert raw(port, b"HEAD /metrics HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")  # no body
    assert raw(port, b"GET /metrics\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert raw(port, b"\x16\x03\x01\x02\x00\x01" + b"\0" * 90 + b"\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_a_header_without_an_end(port: int) -> None:
    """The answer comes after some kilobytes, whatever follows."""
    assert raw(port, b"GET /metrics HTTP/1.1\r\nx: " + b"y" * 20_000).startswith(b"HTTP/1.1 431 ")
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client, pytest.raises(OSError):
        client.sendall(b"GET /metrics HTTP/1.1\r\nx: " + b"y" * (64 << 20))
        while client.recv(65536):
            pass
        raise ConnectionResetError
    assert ask(port)[0] == 200


def test_slow_clients_lose_only_their_own_connections(port: int) -> None:
    """Ten times as many as there may be: silent ones, and ones that send a byte from time to time."""
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE_S))
            for _ in range(10 * listener.MAX_CONNECTIONS)
        ]
        began = time.monotonic()
        while time.monotonic() - began < 3:  # longer than they have
            for client in slow[::2]:
                try:
                    client.send(b"G")
                except OSError:
                    continue
            asked = time.monotonic()
            assert ask(port)[0] == 200
            assert time.monotonic() - asked < PATIENCE_S / 2
        for client in slow:
            client.settimeout(PATIENCE_S)
            try:
                assert client.recv(1) == b""
            except ConnectionResetError:
                continue


def test_a_client_that_does_not_read_is_closed(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert ask(port)[0] == 200
        time.sleep(2.5)  # its deadline
        with pytest.raises(OSError):
            for _ in range(10_000):
                client.sendall(b"x")
                time.sleep(0.001)


def test_many_at_once(port: int) -> None:
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(ask(port)[0])) for _ in range(listener.MAX_CONNECTIONS // 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * len(threads)


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("::", "[::]")])
def test_addresses(host: str, shown: str) -> None:
    with bind(Address(host, 0)) as listening:
        number = listening.getsockname()[1]
        assert url(listening) == f"http://{shown}:{number}/metrics"
        with pytest.raises(TcpwatchError, match=f"{number}: another program uses this port") as failed:
            bind(Address(host, number))
        assert str(number) in failed.value.hint
    with bind(Address(host, number)):
        pass  # free again at once
    if host == "::":
        with bind(Address(host, 0)) as both:
            socket.create_connection(("127.0.0.1", both.getsockname()[1]), 1).close()


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "fe80::1%lo", "fe80::1%nosuch"])
def test_an_address_of_another_host(host: str) -> None:
    with pytest.raises(TcpwatchError, match="this host lacks the address"):
        bind(Address(host, 0))


def test_an_address_that_cannot_be_bound() -> None:
    with pytest.raises(TcpwatchError) as failed:
        bind(Address("::ffff:127.0.0.1", 0))
    assert str(failed.value) == "cannot listen on [::ffff:127.0.0.1]:0: Invalid argument"


def test_the_url_of_a_link_local_address_has_its_interface() -> None:
    class Bound:
        def getsockname(self) -> tuple[str, int, int, int]:
            return "fe80::1", 9718, 0, socket.if_nametoindex("lo")

    assert url(Bound()) == "http://[fe80::1%lo]:9718/metrics"  # type: ignore[arg-type]


def test_the_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "tcpwatch.prom"
    file = Textfile(path)
    old_mask = os.umask(0o077)
    try:
        file.write(METRICS)
        with path.open("rb") as reader:
            file.write(OPENING)
            assert reader.read() == METRICS, "who has it open reads all of the old one"
    finally:
        os.umask(old_mask)
    assert path.read_bytes() == OPENING
    assert stat.S_IMODE(path.stat().st_mode) == 0o644, "node_exporter is another user"
    assert list(tmp_path.iterdir()) == [path]
    file.close()
    for metrics in (b"", OPENING):
        again = Textfile(path)
        again.write(metrics)
        again.close()


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    path, beside = tmp_path / "tcpwatch.prom", Textfile(tmp_path / "other.prom")
    first = Textfile(path)
    first.write(METRICS)
    for _ in range(3):  # the lock goes on to each new file
        with pytest.raises(
            TcpwatchError, match=f"another tcpwatch that is running writes its metrics to {path}$"
        ) as failed:
            Textfile(path)
        assert failed.value.hint == f"--metrics {tmp_path}/tcpwatch-2.prom"
        assert path.read_bytes() == METRICS
        first.write(METRICS)
    beside.write(OPENING)
    first.close()
    Textfile(path).write(OPENING)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["other.prom", "tcpwatch.prom"], "no file of locks"


def test_two_runs_that_begin_at_once(tmp_path: Path) -> None:
    """Neither finds a file. The second one to write notices that it is not alone, and goes on when the first ends."""
    path = tmp_path / "tcpwatch.prom"
    first, second = Textfile(path), Textfile(path)
    first.write(METRICS)
    with pytest.raises(BlockingIOError) as failed:
        second.write(OPENING)
    assert str(cannot_write(path, failed.value)) == f"cannot write {path}: another tcpwatch writes it, too"
    assert path.read_bytes() == METRICS
    first.close()
    second.write(OPENING)
    assert path.read_bytes() == OPENING
    with pytest.raises(BlockingIOError):
        first.write(METRICS)


def test_a_file_that_was_removed_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "tcpwatch.prom"
    file = Textfile(path)
    file.write(METRICS)
    path.unlink()
    file.write(METRICS)
    with pytest.raises(TcpwatchError, match="another tcpwatch"):
        Textfile(path)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / "tcpwatch.prom"
    for _ in range(2):
        Textfile(path).write(METRICS)
    assert path.read_bytes() == METRICS


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    file, victim = Textfile(tmp_path / "x.prom"), tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".x.prom.tmp").symlink_to(victim)
    file.write(OPENING)
    assert victim.read_text() == "mine"
    (tmp_path / "y.prom").symlink_to(victim)
    with pytest.raises(TcpwatchError, match="not overwritten"):
        Textfile(tmp_path / "y.prom")


def test_a_file_that_fails_stays(tmp_path: Path) -> None:
    directory = tmp_path / "x"
    directory.mkdir()
    file = Textfile(directory / "x.prom")
    file.write(OPENING)
    directory.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        file.write(METRICS)
    assert (tmp_path / "moved" / "x.prom").read_bytes() == OPENING


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not end in \.prom") as failed:
        Textfile(tmp_path / "metrics.txt")
    assert failed.value.hint.endswith("metrics.prom")
    for name in ("", "/"):
        with pytest.raises(UsageError, match=r"does not end in \.prom") as failed:
            Textfile(Path(name))
        assert failed.value.hint.endswith("x.prom")
    with pytest.raises(TcpwatchError, match="there is no directory"):
        Textfile(tmp_path / "none" / "x.prom")
    for name, content in (("other.prom", "# HELP node_load1 x\n"), ("note.prom", "dear diary")):
        (tmp_path / name).write_text(content)
        with pytest.raises(TcpwatchError, match="not overwritten"):
            Textfile(tmp_path / name)
    (tmp_path / "d.prom").mkdir()
    os.mkfifo(tmp_path / "f.prom")
    for name in ("d.prom", "f.prom"):
        with pytest.raises(TcpwatchError, match="not overwritten"):
            Textfile(tmp_path / name)

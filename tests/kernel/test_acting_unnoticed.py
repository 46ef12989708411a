"""strace on real clients that wait, while their connections are probed and protected: they notice nothing."""

from __future__ import annotations

import re
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from knob_client import CLIENTS
from probe_command import rows
from protect_command import protected
from real_servers import Site, running_site
from services import USER
from typed import PATH
from watching import PATIENCE_S

from tracer.lab.mariadb import PASSWORD
from tracer.lab.namespace import wait_until
from tracer.lab.network import SERVER
from tracer.lab.peers import Process

BLOCKED = {
    "a slow query in recv()": f"""
        import pymysql
        connection = pymysql.connect(host={SERVER!r}, user={USER!r}, password={PASSWORD!r})
        print(flush=True)
        connection.cursor().execute("SELECT SLEEP(600)")
    """,
    "LISTEN in epoll_wait()": f"""
        import asyncio, asyncpg
        async def main():
            connection = await asyncpg.connect(host={SERVER!r}, user={USER!r}, database="postgres")
            await connection.add_listener("jobs", print)
            print(flush=True)
            await asyncio.Future()
        asyncio.run(main())
    """,
    "SUBSCRIBE in recv()": f"""
        import redis
        channel = redis.Redis(host={SERVER!r}, socket_timeout=None).pubsub()
        channel.subscribe("jobs")
        channel.get_message(timeout=10)
        print(flush=True)
        channel.get_message(timeout=None)
    """,
}
IN_A_LOOP = {
    "LISTEN in timed waits": f"""
        import psycopg
        connection = psycopg.connect("host={SERVER} user={USER} dbname=postgres", autocommit=True)
        connection.execute("LISTEN jobs")
        print(flush=True)
        next(connection.notifies())
    """,
    "SUBSCRIBE in timed waits": f"""
        import redis
        channel = redis.Redis(host={SERVER!r}, socket_timeout=None).pubsub()
        channel.subscribe("jobs")
        channel.get_message(timeout=10)
        print(flush=True)
        while True:
            channel.get_message(timeout=0.1)
    """,
}
_WAITS = r"(?:recvfrom|poll|ppoll|select|pselect6|epoll_wait|epoll_pwait2?)"
_BLOCKED = re.compile(rf"{_WAITS}\([^\n]*\Z")
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\(.* = ", re.MULTILINE)
_NOTICED = re.compile(r"EINTR|ERESTART|restart_syscall|rt_sigreturn|--- SIG|\+\+\+ ")
"""What strace prints for a call that was interrupted, for a signal, and for an end."""


class Traced(Process):
    """A real client under strace. A context manager, which ends both."""

    def __init__(self, site: Site, program: str, trace: Path) -> None:
        self._file = trace
        python: list[str | Path] = [CLIENTS / "python/bin/python", "-c", textwrap.dedent(program)]
        super().__init__(
            site.lab.client.popen(
                ["strace", "-f", "-o", trace, *python],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip

    def __enter__(self) -> Traced:
        return self

    def wait_for_it(self) -> None:
        """Wait until it is about to wait."""
        assert self._process.stdout is not None and self._process.stderr is not None
        assert self._process.stdout.readline() == "\n", self._process.stderr.read()

    def waits(self) -> bool:
        """Whether it is in a call that waits."""
        return _BLOCKED.search(self.trace) is not None

    @property
    def trace(self) -> str:
        """All that it has done after its preparations."""
        return self._file.read_text().rpartition('write(1, "\\n", 1)')[2]

    @property
    def calls(self) -> list[str]:
        """The names of its system calls that have returned."""
        return _CALL.findall(self.trace)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch, running_site(600) as made:
        patch.setenv("PATH", PATH)  # with sudo
        yield made


def test_no_call_returns_and_none_begins(site: Site, tmp_path: Path) -> None:
    netns = site.lab.client.netns
    programs = {**BLOCKED, **IN_A_LOOP}
    with ExitStack() as stack:
        traced = {
            name: stack.enter_context(Traced(site, program, tmp_path / f"{number}.trace"))
            for number, (name, program) in enumerate(programs.items())
        }
        for each in traced.values():
            each.wait_for_it()
        blocked, looping = ([traced[name] for name in names] for names in (BLOCKED, IN_A_LOOP))
        wait_until(lambda: all(each.waits() for each in blocked), PATIENCE_S, "these are in a call that waits")
        wait_until(lambda: all(len(each.calls) >= 20 for each in looping), PATIENCE_S, "these have waited some times")
        before = [each.trace for each in blocked]
        usual = [set(each.calls) for each in looping]
        counts = [len(each.calls) for each in looping]

        for _ in range(3):
            found, status = rows("--netns", netns)
            assert (status, [row["result"] for row in found]) == (0, ["alive"] * len(programs))
        changed = protected("--netns", netns, "--idle", "60s", "--user-timeout", "90s")
        assert [row["result"] for row in changed] == ["changed"] * len(programs)

        assert [each.trace for each in blocked] == before
        wait_until(
            lambda: all(len(each.calls) >= 2 * count for each, count in zip(looping, counts)),
            PATIENCE_S, "the loops go on",
        )  # fmt: skip
        assert [set(each.calls) for each in looping] == usual
        for each in traced.values():
            assert not _NOTICED.search(each.trace), each.trace

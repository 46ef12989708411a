"""`probe`, `protect` and `end` on connections of real client libraries, behind a firewall that forgets."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from end_command import end
from probe_command import rows
from protect_command import be_silent, following, protected
from real_servers import PORTS, Ends, Pool, Site, running_site
from ss_comparison import ss
from typed import PATH
from watching import PATIENCE_S, Json, both_ends

from tracer.lab.namespace import wait_until

LONG_S, SHORT_S = 600, 3
"""How long the firewall remembers a silent session: longer than a test, or a third of it."""
ABORTED = {
    "PyMySQL": r"pymysql\.err\.OperationalError: \(2013, .*Software caused connection abort",
    "psycopg": r"psycopg\.OperationalError: .*Software caused connection abort",
    "redis": r"redis\.exceptions\.ConnectionError: .*Software caused connection abort",
}
"""What each library reports after ECONNABORTED."""
TIMED_OUT = {
    "PyMySQL": r"pymysql\.err\.OperationalError: \(2013, .*Connection timed out",
    "psycopg": r"psycopg\.OperationalError: .*Connection timed out",
    "redis": r"redis\.exceptions\.TimeoutError: ",  # it has no timeout of its own here
}
"""And after ETIMEDOUT."""


@pytest.fixture(scope="module")
def servers() -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch, running_site(LONG_S) as made:
        patch.setenv("PATH", PATH)  # with sudo
        yield made


@pytest.fixture
def site(servers: Site) -> Site:
    servers.forget_after(LONG_S)
    servers.lab.forget_sessions()  # those of connections that are closed
    return servers


def by_result(found: list[Json], action: str = "probe") -> dict[str, set[Ends]]:
    """The connections with each result."""
    results: dict[str, set[Ends]] = {}
    for row in found:
        if row["action"] == action:
            results.setdefault(row["result"], set()).add(Ends(row["lport"], row["rport"]))
    return results


def assert_failed(pool: Pool, answers: dict[int, Json], reports: dict[str, str]) -> None:
    """Each query failed as its library reports it."""
    for position, answer in answers.items():
        assert re.match(reports[pool.library(position)], answer["error"], re.DOTALL), answer


def test_exactly_the_forgotten_connections_do_not_answer(site: Site) -> None:
    with Pool(site.lab.client, "worker", 4) as pool:
        dead = pool.firsts(2)
        alive = pool.others(dead)
        site.forget(pool.ends(dead))
        found, status = rows("--netns", site.lab.client.netns, "--connect")
        assert status == 1
        assert by_result(found) == {"no-answer": pool.ends(dead), "alive": pool.ends(alive)}
        assert {row["pid"] for row in found if row["action"] == "probe"} == {pool.pid}
        connects = {row["rport"]: row["result"] for row in found if row["action"] == "connect"}
        assert connects == dict.fromkeys(PORTS.values(), "connected")
        pool.assert_working(alive)


def test_sixty_of_two_hundred_are_dead_and_the_others_answer(site: Site) -> None:
    with Pool(site.lab.client, "worker", 200, ["redis"]) as pool:
        dead = pool.others([])[::3][:60]
        site.forget(pool.ends(dead))
        began_s = time.monotonic()
        found, status = rows("--netns", site.lab.client.netns, "--rport", "6379")
        took_s = time.monotonic() - began_s
        alive = pool.others(dead)
        assert (status, len(dead), len(alive)) == (1, 60, 140)
        assert by_result(found) == {"no-answer": pool.ends(dead), "alive": pool.ends(alive)}
        assert took_s < 30, "3 s and the start of the command; one after the other would take three minutes"
        pool.assert_working(alive)


def test_idle_connections_live_through_ten_timeouts_and_their_twins_do_not(site: Site, tmp_path: Path) -> None:
    netns = site.lab.client.netns
    site.forget_after(SHORT_S)
    with (
        following(tmp_path, "--netns", netns, "--comm", "later", "--idle", "1s") as follow,
        Pool(site.lab.client, "early", 1) as early,
    ):
        done = protected("--netns", netns, "--comm", "early", "--idle", "1s")
        assert by_result(done, "protect") == {"changed": early.ends()}
        with Pool(site.lab.client, "twin", 1) as twin, Pool(site.lab.client, "later", 1) as later:
            followed = follow.wait_for(len(PORTS))
            assert by_result(followed, "protect") == {"changed": later.ends()}
            be_silent(10 * SHORT_S)
            assert site.remembers() == early.ends() | later.ends()
            found, status = rows("--netns", netns)
            assert status == 1
            assert by_result(found) == {"no-answer": twin.ends(), "alive": early.ends() | later.ends()}
            early.assert_working()
            later.assert_working()


def test_a_frozen_worker_is_freed_and_no_bystander_notices(site: Site) -> None:
    with Pool(site.lab.client, "worker", 3) as worker, Pool(site.lab.client, "bystander", 2) as bystander:
        frozen = worker.firsts()
        site.forget(worker.ends(frozen))
        worker.send_queries(frozen)

        def hang() -> bool:
            shown = ss(site.lab.client)
            return all((shown[each]["attempt"] or 0) > 2 for each in worker.ends(frozen))

        wait_until(hang, PATIENCE_S, "each one was retransmitted three times")
        done = end("--stuck", "--yes", "--netns", both_ends(site.lab), "--json")
        ended_s = time.monotonic()
        assert done.returncode == 0, done.stderr
        ended = [json.loads(line) for line in done.stdout.splitlines()]
        assert by_result(ended, "end") == {"ended": worker.ends(frozen)}
        answers = worker.answers(frozen)
        assert_failed(worker, answers, ABORTED)
        for position, answer in answers.items():
            assert answer["at_s"] - ended_s < 1
            assert answer["again"] != worker.session(position), "a new connection, which works"
        worker.assert_working(worker.others(frozen))
        bystander.assert_working()


def test_a_user_timeout_limits_the_wait_also_when_tcpwatch_is_gone(site: Site, tmp_path: Path) -> None:
    netns = site.lab.client.netns
    wanted = ("--idle", "60s", "--user-timeout", "3s")
    with following(tmp_path, "--netns", netns, "--comm", "worker", *wanted) as follow:
        worker = Pool(site.lab.client, "worker", 2)
        follow.wait_for(2 * len(PORTS))
        follow.kill()
    with worker, Pool(site.lab.client, "bystander", 1) as bystander:
        frozen = worker.firsts()
        site.forget(worker.ends(frozen) | bystander.ends())
        bystander.send_queries(bystander.others([]))
        worker.send_queries(frozen)
        answers = worker.answers(frozen)
        assert_failed(worker, answers, TIMED_OUT)
        for position, answer in answers.items():
            assert 2.5 < answer["took_s"] < 15, "not a quarter of an hour"
            assert answer["again"] != worker.session(position), "a new connection, which works"
        worker.assert_working(worker.others(frozen))
        assert {ss(site.lab.client)[each]["timer"] for each in bystander.ends()} == {"on"}, "these hang on"

"""`probe` and `protect` touch no other socket, however fast descriptors and ports are taken again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from probe_command import rows
from protect_command import following, protected
from watching import PATIENCE_S, Json

from tracer.act.probing import Prober
from tracer.act.protecting import protect as protect_each
from tracer.kernel.descriptors import Descriptors
from tracer.kernel.sockets import read_sockets
from tracer.lab.namespace import Namespace, wait_until
from tracer.model.actions import Answer, Probed
from tracer.model.filters import Filter
from tracer.model.protection import Protection, Result
from tracer.model.sockets import Socket

STORM = Path(__file__).with_name("descriptor_storm.py")
SLOTS = 16
CHOSEN, BYSTANDERS = range(24000, 24000 + SLOTS), 24100
PROTECTION = Protection(60, user_timeout_ms=90_000)
COMMANDS, TIMES, ENOUGH = 3, 20, 15
AGED_S, LATE_S = 0.01, 0.005
"""Most of them live for at most 30 ms: many have gone by then, and their descriptors and ports are taken again."""


@pytest.fixture
def slow_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each duplicate takes some milliseconds from the look at its number on, as on a loaded machine."""
    copy = Descriptors._get

    def copy_late(self: Descriptors, pid: int, number: int) -> int:
        time.sleep(LATE_S)
        return copy(self, pid, number)

    monkeypatch.setattr(Descriptors, "_get", copy_late)


class Storm:
    """descriptor_storm.py in a namespace."""

    def __init__(self, namespace: Namespace) -> None:
        argv: list[str | Path] = [sys.executable, STORM, str(SLOTS), str(CHOSEN.start), str(BYSTANDERS)]
        self._process = namespace.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None and self._process.stdout.readline() == "ready\n"

    def __enter__(self) -> Storm:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def end(self, changed: int) -> None:
        """End it, and check what it has seen. changed: sockets that were protected."""
        output, _ = self._process.communicate("", timeout=PATIENCE_S)
        seen = json.loads(output)
        for who in ("chosen", "bystanders", "accepted"):
            assert seen[who]["lived"] > TIMES and not seen[who]["wrong"], seen[who]
        assert seen["bystanders"]["protected"] == seen["accepted"]["protected"] == 0
        assert 0 < seen["chosen"]["protected"] <= changed


@pytest.mark.usefixtures("slow_copies")
def test_a_storm_of_descriptors_and_ports(namespace: Namespace) -> None:
    wanted = Filter(netns=frozenset([namespace.netns]), lports=frozenset(CHOSEN))
    probed: list[Probed] = []
    counts: Counter[str] = Counter()

    def found_a_moment_ago() -> list[Socket]:
        found = read_sockets(wanted)
        time.sleep(AGED_S)
        return found

    def act_on_them() -> bool:
        counts["times"] += 1
        Prober(0.1, probed.append).probe(found_a_moment_ago())
        found = found_a_moment_ago()
        outcomes = list(protect_each(found, PROTECTION))
        counts["changed"] += sum(each.result is Result.CHANGED for each in outcomes)
        counts["gone"] += len(found) - len(outcomes)
        alive = sum(each.answer is Answer.ALIVE for each in probed)
        closed = sum("closed it meanwhile" in each.detail for each in probed)
        return counts["times"] >= TIMES and min(alive, closed, counts["changed"], counts["gone"]) >= ENOUGH

    with Storm(namespace) as storm:
        wait_until(act_on_them, 3 * PATIENCE_S, "some are reached in time, and some have gone")
        for _ in range(COMMANDS):
            rows(*chosen_in(namespace), "--wait", "1s")
            counts["changed"] += changed_in(protected(*chosen_in(namespace), "--idle", "60s"))
        storm.end(counts["changed"])


def test_a_storm_that_is_followed(namespace: Namespace, tmp_path: Path) -> None:
    with following(tmp_path, *chosen_in(namespace), "--idle", "60s") as follow, Storm(namespace) as storm:
        wait_until(lambda: changed_in(follow.rows) >= 10 * ENOUGH, PATIENCE_S, "many are reached in time")
        assert follow.stop() == 0
        storm.end(changed_in(follow.rows))


def chosen_in(namespace: Namespace) -> tuple[str | int, ...]:
    """The filters that choose."""
    return "--netns", namespace.netns, "--lport", ",".join(map(str, CHOSEN))


def changed_in(shown: list[Json]) -> int:
    """How many were changed."""
    return sum(row["result"] == "changed" for row in shown)

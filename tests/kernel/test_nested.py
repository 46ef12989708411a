"""What an interrupt brings to a hook whose program it finds at work is seen all the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from counting import Witness
from watching import PATIENCE_S

from tracer.kernel.live import LiveSource
from tracer.kernel.program.losses import recursion_misses
from tracer.lab.namespace import Namespace
from tracer.model.filters import Filter

pytestmark = pytest.mark.alone

LATE = Path(__file__).with_name("late.py")
ENOUGH = 300
"""Times that the kernel did not run the program: of some dozen interrupts."""


@pytest.fixture
def late(namespace: Namespace) -> Iterator[subprocess.Popen[str]]:
    with namespace.popen([sys.executable, LATE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield process


def tell(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin
    process.stdin.write(f"{word}\n")
    process.stdin.flush()


def test_what_comes_while_the_program_is_at_work_is_seen_once(
    namespace: Namespace, witness: Witness, late: subprocess.Popen[str]
) -> None:
    changes: Counter[tuple[str | None, str | None, str | None]] = Counter()
    lost = missed = 0
    asked = ended = False
    with LiveSource(Filter(netns=frozenset({namespace.netns})), lambda: ended) as source:
        fdinfo = source._program._misses["inet_sock_set_state"]
        deadline = time.monotonic() + PATIENCE_S
        tell(late, "begin")
        for batch in source:
            changes.update((e.sock, e.old_state, e.new_state) for e in batch.events if e.event == "state")
            lost += sum(event.count or 0 for event in batch.events if event.event == "lost")
            missed = recursion_misses(os.pread(fdinfo, 4096, 0))
            if not asked and (missed >= ENOUGH or time.monotonic() > deadline):
                tell(late, "end")
                asked = True
            ended = asked and late.poll() is not None
    assert late.returncode == 0
    assert missed >= ENOUGH, "the clock never interrupted it"
    assert lost == 0
    assert [change for change, times in changes.items() if times > 1] == []
    assert sum(changes.values()) == witness.counted()

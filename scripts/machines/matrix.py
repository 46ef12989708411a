"""The kernel tests on several machines at a time, and their outcomes."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from machines import kernels, roots
from machines.errors import MachineError, NotThere
from machines.kernels import Kernel
from machines.machine import TIMED_OUT, Machine

TREE = Path(__file__).resolve().parent.parent.parent
TESTS = " ".join(
    (
        "tests/kernel/test_every_kernel.py",
        "tests/kernel/test_packet_scripts.py",
        "tests/kernel/test_descriptors.py",
        "tests/kernel/test_duplicates.py",
        "tests/kernel/test_probing.py::test_a_peer_that_lost_the_connection_resets_it",
        "tests/kernel/test_probing.py::test_a_container_with_a_user_namespace",
        "tests/kernel/test_probing.py::test_sixty_of_two_hundred_are_dead_and_the_others_answer",
        "tests/kernel/test_probing_unnoticed.py::test_a_server_can_restart_beside_a_probed_connection",
        "tests/kernel/test_probing_unnoticed.py::test_a_process_that_closes_what_another_one_shares",
        "tests/kernel/test_protecting.py::test_both_ends_and_nothing_is_loosened",
        "tests/kernel/test_following.py::test_the_least_that_following_needs",
    )
)
"""What runs on every kernel. Of the commands that act only what depends on the kernel: a machine emulates slowly."""
TIMEOUT_S = 1500

Finding = dict[str, Any]

EVERY = (
    "5.10",
    "6.1",
    "6.12",
    "6.18",
    kernels.NEWEST,
    f"6.12/{roots.SUITES[0]}",
    f"{kernels.NEWEST}/{roots.SUITES[1]}",
)
"""What `all` means: KERNEL, or KERNEL/ROOT for another bcc."""


@dataclass
class Outcome:
    """The outcome of one target. skipped: why it was not tried. facts: results of `tcpwatch check`, by name."""

    target: str
    skipped: str = ""
    failed: str = ""
    seconds: float = 0
    passed: int = 0
    facts: dict[str, Finding] = field(default_factory=dict)


def run(targets: Sequence[str], cache: Path, *, jobs: int, logs: Path) -> list[Outcome]:
    """Download what is missing, then run the tests on each, `jobs` at a time; a line on stderr as each one ends.

    logs: a directory for what each printed.
    """
    prepared = [_prepare(target, cache) for target in targets]
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda pair: _outcome(pair[0], pair[1], logs), zip(targets, prepared)))


def _prepare(target: str, cache: Path) -> tuple[Kernel, Path] | Outcome:
    label, _, root = target.partition("/")
    try:
        return kernels.get(label, cache), roots.get(root or roots.HOST, cache)
    except NotThere as gone:
        return Outcome(target, skipped=str(gone))
    except MachineError as error:
        return Outcome(target, failed=str(error))


def _outcome(target: str, prepared: tuple[Kernel, Path] | Outcome, logs: Path) -> Outcome:
    if isinstance(prepared, Outcome):
        outcome = prepared
    else:
        began = time.monotonic()
        outcome = _try(target, *prepared, logs / f"{target.replace('/', '-')}.log")
        outcome.seconds = time.monotonic() - began
    _say(outcome)
    return outcome


def _try(target: str, kernel: Kernel, root: Path, log: Path) -> Outcome:
    is_host = root == Path("/")
    python = str(TREE / ".venv/bin/python") if is_host else "/usr/bin/python3"
    with tempfile.TemporaryDirectory(prefix="results.") as made, log.open("wb", buffering=0) as output:
        results = Path(made)
        machine = Machine(
            kernel,
            root=root,
            shares=[] if is_host else [TREE],
            results=results,
            environment={"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(TREE)},
        )
        command = (
            f"{python} -m tracer check --json >{results}/check.json || exit 1; "
            f"exec {python} -m pytest -p no:cacheprovider --require-kernel --junitxml={results}/junit.xml {TESTS}"
        )
        try:
            status = machine.run(["bash", "-c", command], timeout_s=TIMEOUT_S, directory=TREE, output=output)
        except MachineError as error:
            return Outcome(target, failed=str(error))
        failed = {0: "", TIMED_OUT: f"not finished after {TIMEOUT_S} s"}.get(status, f"exit status {status}")
        return Outcome(
            target, failed=failed, passed=_passed(results / "junit.xml"), facts=_facts(results / "check.json")
        )


def _passed(junit: Path) -> int:
    try:
        suite = ElementTree.parse(junit).getroot().find("testsuite")
    except (FileNotFoundError, ElementTree.ParseError):
        return 0
    assert suite is not None
    return int(suite.get("tests", 0)) - sum(int(suite.get(each, 0)) for each in ("failures", "errors", "skipped"))


def _facts(check: Path) -> dict[str, Finding]:
    try:
        findings = json.loads(check.read_text(encoding="utf-8"))["findings"]
    except (FileNotFoundError, ValueError):
        return {}
    return {finding["what"]: finding for finding in findings}


def _say(outcome: Outcome) -> None:
    if outcome.skipped:
        what = f"SKIPPED: {outcome.skipped}"
    elif outcome.failed:
        what = f"FAILED: {outcome.failed}"
    else:
        what = f"{outcome.passed} tests passed"
    print(f"vm: {outcome.target}: {what}, {outcome.seconds:.0f} s", file=sys.stderr, flush=True)

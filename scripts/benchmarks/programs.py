"""How often the kernel ran a process's BPF programs, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import sweeping


@dataclass(frozen=True)
class Runs:
    """Of one program, since it was loaded. hook: its raw tracepoint, empty where it is attached to something else."""

    hook: str
    count: int
    total_ns: int


def counted() -> AbstractContextManager[None]:
    """The kernel counts meanwhile, which itself takes it some time in each run."""
    return sweeping.sysctl("kernel.bpf_stats_enabled", "1")


def runs_of(pid: int) -> list[Runs]:
    """Of all programs of a process, in the order of loading."""
    programs: dict[str, dict[str, str]] = {}
    hooks: dict[str, str] = {}
    for info in sorted(Path(f"/proc/{pid}/fdinfo").iterdir(), key=lambda path: int(path.name)):
        try:
            lines = info.read_text(encoding="ascii").splitlines()
        except FileNotFoundError:  # no program: those stay open
            continue
        pairs = (line.partition(":\t") for line in lines)
        values = {name.strip(): value.strip() for name, _, value in pairs}
        if "run_cnt" in values:
            programs[values["prog_id"]] = values
        elif "tp_name" in values:
            hooks[values["prog_id"]] = values["tp_name"]
    return [
        Runs(hooks.get(number, ""), int(values["run_cnt"]), int(values["run_time_ns"]))
        for number, values in programs.items()
    ]


def total_ns(pid: int) -> int:
    """Of all of them together."""
    return sum(runs.total_ns for runs in runs_of(pid))


def since(before: Sequence[Runs], now: Sequence[Runs]) -> list[Runs]:
    """What came since then, of the same programs in the same order."""
    return [Runs(then.hook, new.count - then.count, new.total_ns - then.total_ns) for then, new in zip(before, now)]

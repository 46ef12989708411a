"""The hook for each kind of event on this kernel, and its fallback."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from tracer.model.dataclass import dataclass
from tracer.model.errors import TcpwatchError
from tracer.model.kinds import Kind

_KPROBE_PMU = Path("/sys/bus/event_source/devices/kprobe")
_KALLSYMS = Path("/proc/kallsyms")

Status = Literal["ok", "fallback", "missing"]

STATE_HOOK = "inet_sock_set_state"
LOST_HOOKS = (
    "tcp_retransmit_skb",
    "tcp_retransmit_synack",
    STATE_HOOK,
    "keepalive",
    "tcp_receive_reset",
    "tcp_send_reset",
    "kfree_skb",
    "inet_sk_error_report",
    "tcp_probe",
    "window-probe",
)
"""The counters of lost events by name, in the order of enum hook in bpf/event.h."""

FOUND_BY_WALK = "found, waiting"
"""The events of walks over all sockets: Probe.event of the iterator."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One BPF function on one hook."""

    kind: Literal["raw tracepoint", "typed raw tracepoint", "kprobe", "iterator"]
    hook: str
    btf_type: int = 0  # BTF id, of a typed raw tracepoint or an iterator
    is_second: bool = False  # it recovers what the first function on this hook missed (bpf/reentry.h)

    @property
    def function(self) -> str:
        """The name of the function in bpf/."""
        if self.kind == "iterator":
            return f"bpf_iter__{self.hook}"
        if self.is_second:
            return f"second_{self.hook}"
        return f"typed_{self.hook}" if self.btf_type else f"on_{self.hook}"

    def __str__(self) -> str:
        return f"{self.kind} {self.hook}"


@dataclass(frozen=True, slots=True)
class Probe:
    """How one kind of event is traced on this kernel.

    attachment: None if it is not traced, or if another hook traces it too. note: explains that to the user.
    """

    event: str
    status: Status
    attachment: Attachment | None
    note: str = ""
    if_refused: Probe | None = None  # the fallback if the kernel refuses this one
    second: Attachment | None = None  # attached after `attachment`


class HookArguments(Protocol):
    """The part of KernelTypes that `choose` needs."""

    def hook_arguments(self, tracepoint: str) -> int:
        """How many arguments a raw tracepoint passes; 0 where there is none."""

    def hook_type(self, tracepoint: str) -> int | None:
        """The BTF type of a raw tracepoint."""

    def function(self, name: str) -> int | None:
        """The BTF type of a function of the kernel."""


class TimerFunctions(NamedTuple):
    """Addresses of two kernel functions; 0 if unknown."""

    keepalive: int  # tcp_keepalive_timer()
    write: int  # tcp_write_timer()


def choose(types: HookArguments, *, kprobes: bool, timers: TimerFunctions, resume: bool = True) -> list[Probe]:
    """The best probe for each kind of event.

    kprobes: whether the kernel has them. resume: whether received segments are traced.
    """

    def raw(event: str, hook: str, *, arguments: int = 1, missing: str) -> Probe:
        if types.hook_arguments(hook) >= arguments:
            return Probe(event, "ok", Attachment("raw tracepoint", hook))
        return Probe(event, "missing", None, missing)

    probes = [
        raw("retransmit", "tcp_retransmit_skb", missing="needs Linux 4.15"),
        raw("retransmit (SYN/ACK)", "tcp_retransmit_synack", missing="needs Linux 4.16"),
        with_second(raw("state", STATE_HOOK, missing="needs Linux 4.16")),
        _keepalive(types, kprobes, timers),
        raw("reset (received)", "tcp_receive_reset", missing="needs Linux 4.16"),
        raw("reset (sent)", "tcp_send_reset", missing="needs Linux 4.16"),
        raw("reset (refused)", "kfree_skb", arguments=4, missing="needs Linux 6.11"),
        raw("error", "inet_sk_error_report", missing=""),
    ]
    if probes[-1].status == "missing":
        probes[-1] = Probe("error", "fallback", None, "seen when the socket is closed; the report needs Linux 5.14")
    if resume:
        probes.append(_typed(types, raw("resume", "tcp_probe", arguments=2, missing="needs Linux 4.16")))
    else:
        probes.append(Probe("resume", "fallback", None, "off: recovery is inferred when retransmissions stop"))
    probes.append(_walk(types))
    return probes


def _walk(types: HookArguments) -> Probe:
    btf_type = types.function("bpf_iter_task_file")
    if btf_type is None:
        return Probe(FOUND_BY_WALK, "missing", None, "needs Linux 5.8")
    refused = Probe(FOUND_BY_WALK, "missing", None, "the kernel refuses the iterator over open files")
    return Probe(FOUND_BY_WALK, "ok", Attachment("iterator", "task_file", btf_type), if_refused=refused)


def with_second(probe: Probe) -> Probe:
    """Add a second function, which recovers what the first one misses (bpf/reentry.h)."""
    if probe.attachment is None:
        return probe
    return replace(probe, second=replace(probe.attachment, is_second=True))


def _typed(types: HookArguments, probe: Probe) -> Probe:
    """Prefer a program with BTF-typed arguments, for a hook that runs all the time.

    It reads a member directly, without a call of bpf_probe_read_kernel().
    """
    if probe.attachment is None:
        return probe
    hook = probe.attachment.hook
    btf_type = types.hook_type(hook)
    if btf_type is None:
        return probe
    return replace(probe, attachment=Attachment("typed raw tracepoint", hook, btf_type), if_refused=probe)


def _keepalive(types: HookArguments, kprobes: bool, timers: TimerFunctions) -> Probe:
    why = "the kernel refuses the kprobe (kernel.perf_event_paranoid?)" if kprobes else "this kernel has no kprobes"
    if timers.keepalive and types.hook_arguments("timer_expire_entry"):
        hook = Attachment("raw tracepoint", "timer_expire_entry")
        timer_probe = _typed(types, Probe("keepalive", "fallback", hook, f"{why}; traced when the timer expires"))
    else:
        note = f"{why}, and /proc/kallsyms hides tcp_keepalive_timer (kernel.kptr_restrict, CAP_SYSLOG)"
        timer_probe = Probe("keepalive", "missing", None, note)
    if not kprobes:
        return timer_probe
    return Probe("keepalive", "ok", Attachment("kprobe", "tcp_write_wakeup"), if_refused=timer_probe)


def require(probes: Sequence[Probe]) -> None:
    """Raise TcpwatchError without retransmit or state events: tcpwatch needs both."""
    for probe in probes:
        if probe.event in (Kind.RETRANSMIT, Kind.STATE) and probe.attachment is None:
            raise TcpwatchError(
                f"this kernel cannot trace {probe.event} events ({probe.note})",
                hint="tcpwatch check",
            )


_HOOKS = {
    "retransmit": ("tcp_retransmit_skb",),
    "retransmit (SYN/ACK)": ("tcp_retransmit_synack",),
    "state": (STATE_HOOK,),
    "keepalive": ("keepalive", "window-probe"),  # one timer has both
    "reset (received)": ("tcp_receive_reset",),
    "reset (sent)": ("tcp_send_reset",),
    "reset (refused)": ("kfree_skb",),
    "error": ("inet_sk_error_report",),
    "resume": ("tcp_probe",),
    FOUND_BY_WALK: ("task_file",),
}
"""The names in LOST_HOOKS, and of the iterator, by Probe.event."""


def attached_hooks(attached: Iterable[Probe]) -> dict[str, bool]:
    """Whether each hook is attached, by its name in LOST_HOOKS; the iterator over open files is `task_file`."""
    return {hook: probe.attachment is not None for probe in attached for hook in _HOOKS.get(probe.event, ())}


def kprobes_available() -> bool:
    """Whether perf_event_open() offers kprobes: CONFIG_KPROBE_EVENTS."""
    return _KPROBE_PMU.is_dir()


def timer_functions() -> TimerFunctions:
    """Their addresses in /proc/kallsyms; 0 if hidden (kernel.kptr_restrict) or absent."""
    try:
        with _KALLSYMS.open(encoding="ascii", errors="replace") as lines:
            return TimerFunctions(*symbol_addresses(lines, "tcp_keepalive_timer", "tcp_write_timer"))
    except OSError:
        return TimerFunctions(0, 0)


def symbol_addresses(lines: Iterable[str], *symbols: str) -> list[int]:
    """The addresses of these symbols, without variants such as `.cold`, in lines of /proc/kallsyms; 0 if absent."""
    endings = tuple(f" {symbol}\n" for symbol in symbols)
    found: dict[str, int] = {}
    for line in lines:
        if line.endswith(endings):
            address, _, symbol = line.split(maxsplit=2)
            found.setdefault(symbol.strip(), int(address, 16))
            if len(found) == len(symbols):
                break
    return [found.get(symbol, 0) for symbol in symbols]

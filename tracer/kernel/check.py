"""`tcpwatch check`: what this host supports and what is missing. Every hook is attached for a moment."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

from tracer.kernel import host, probes
from tracer.kernel.program import cache
from tracer.kernel.program.btf import VMLINUX, KernelTypes
from tracer.kernel.program.compiler import ProgramError, bcc_version, compile_afresh
from tracer.kernel.program.program import Program
from tracer.kernel.program.source import TRACER, absent_members, source_for
from tracer.model.checks import Finding, can_trace
from tracer.model.errors import TcpwatchError
from tracer.model.filters import Filter
from tracer.model.kinds import Kind


def check_host() -> list[Finding]:
    """Every check result, requirements first. A failure is a result too, and never raised."""
    findings = [_kernel(), _lockdown(), _proc(), _privilege(), _pids(), _networks(), _python(), _bcc(), _btf()]
    if can_trace(findings):
        findings.append(_bpf())
    if not can_trace(findings):
        return findings
    return [*findings, *_hooks()]


def _kernel() -> Finding:
    detail = f"{host.kernel_release()} {platform.machine()}, HZ {host.hz()}"
    if platform.machine() not in ("x86_64", "aarch64"):
        return Finding("kernel", "missing", f"{detail}: only x86_64 and aarch64 are supported", needed=True)
    return Finding("kernel", "ok", detail, needed=True)


def _lockdown() -> Finding:
    mode = host.lockdown()
    if mode == "confidentiality":
        return Finding(
            "lockdown", "missing", "confidentiality: BPF may not read kernel memory",
            hint="boot with lockdown=integrity", needed=True,
        )  # fmt: skip
    return Finding("lockdown", "ok", mode or "none, or unknown", needed=True)


def _privilege() -> Finding:
    if missing := host.missing_capabilities():
        detail = f"uid {os.geteuid()} without {' and '.join(missing)}"
        hint = host.how_to_get(missing, "sudo tcpwatch check")
        return Finding("privilege", "missing", detail, hint=hint, needed=True)
    return Finding("privilege", "ok", f"uid {os.geteuid()}", needed=True)


def _pids() -> Finding:
    if not host.is_in_pid_namespace():
        if hides := host.hidden_processes():
            return Finding(
                "processes", "fallback",
                f"/proc hides those of other users ({hides}, no CAP_SYS_PTRACE): they may look as if they had ended, "
                "and end may not spare its own session",
                hint="run it with CAP_SYS_PTRACE, or: mount -o remount,hidepid=0 /proc",
            )  # fmt: skip
        return Finding("processes", "ok", "of the whole host")
    return Finding(
        "processes", "missing",
        "not the host's PID namespace: outside of it, processes have no pid, and what hangs or waits is not found",
        hint="in a pod hostPID: true; docker run --pid=host; or run tcpwatch on the host",
    )  # fmt: skip


def _networks() -> Finding:
    try:
        may_enter = host.may_enter_namespaces()
    except OSError as error:
        return Finding("networks", "fallback", f"/proc/thread-self/ns/net: {error.strerror}")
    if may_enter:
        which = "of processes in this PID namespace" if host.is_in_pid_namespace() else "of the whole host"
        return Finding("networks", "ok", which)
    return Finding(
        "networks", "fallback",
        "without CAP_SYS_ADMIN, of other network namespaces only what processes hold is shown, and end ends nothing",
    )  # fmt: skip


def _proc() -> Finding:
    return _required("/proc", host.require_proc)


def _bpf() -> Finding:
    return _required("bpf(2)", host.require_bpf)


def _required(what: str, require: Callable[[], None]) -> Finding:
    try:
        require()
    except TcpwatchError as error:
        return Finding(what, "missing", str(error), hint=error.hint, needed=True)
    return Finding(what, "ok", needed=True)


def _python() -> Finding:
    return Finding("Python", "ok", platform.python_version())


def _bcc() -> Finding:
    try:
        return Finding("bcc", "ok", bcc_version(), needed=True)
    except TcpwatchError as error:
        return Finding("bcc", "missing", str(error), hint=error.hint, needed=True)


def _btf() -> Finding:
    try:
        with KernelTypes() as types:
            absent = absent_members(source_for(TRACER, types, hz=host.hz()).text, types)
    except TcpwatchError as error:
        return Finding("BTF", "missing", str(error), hint=error.hint, needed=True)
    detail = str(VMLINUX)
    if absent:
        detail += f"; this kernel has no {', '.join(absent)}"
    return Finding("BTF", "ok", detail, needed=True)


def _hooks() -> list[Finding]:
    timers = probes.timer_functions()
    with KernelTypes() as types:
        chosen = probes.choose(types, kprobes=probes.kprobes_available(), timers=timers)
        source = source_for(TRACER, types, hz=host.hz())
    notes: list[str] = []
    try:
        program = Program(compile_afresh(source, notes.append), timers=timers)
    except TcpwatchError as error:
        return [Finding("BPF program", "missing", str(error), hint=_hint(error), needed=True)]
    kept = Finding("cache", "fallback" if notes else "ok", "; ".join(notes) or str(cache.directory()))
    with program:
        try:
            program.configure(Filter())
        except TcpwatchError as error:
            return [Finding("BPF program", "missing", str(error), hint=_hint(error), needed=True)]
        return [kept, *(_hook(program, probe) for probe in chosen)]


def _hook(program: Program, probe: probes.Probe) -> Finding:
    needed = probe.event in (Kind.RETRANSMIT, Kind.STATE)
    try:
        program.attach([probe])
    except TcpwatchError as error:
        return Finding(probe.event, "missing", str(error), hint=_hint(error), needed=needed)
    used = program.attached[-1]
    detail = ": ".join(part for part in (str(used.attachment or ""), used.note) if part)
    return Finding(probe.event, used.status, detail, needed=needed)


def _hint(error: TcpwatchError) -> str:
    """The last line of the compiler's or verifier's log, or the error's own hint without a log."""
    log = error.log if isinstance(error, ProgramError) else ""
    # The verifier ends with a count of instructions.
    lines = [line.strip() for line in log.splitlines() if line.strip() and not line.startswith("processed ")]
    return lines[-1] if lines else error.hint

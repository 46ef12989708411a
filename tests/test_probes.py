from __future__ import annotations

import pytest

from tracer.kernel.probes import TimerFunctions, choose, require, symbol_addresses
from tracer.kernel.program.losses import recursion_misses
from tracer.model.errors import TcpwatchError

BOTH = TimerFunctions(0xFF, 0xFE)

TODAY = {
    "tcp_retransmit_skb": 3,
    "tcp_retransmit_synack": 2,
    "inet_sock_set_state": 3,
    "tcp_receive_reset": 1,
    "tcp_send_reset": 3,
    "kfree_skb": 4,
    "inet_sk_error_report": 1,
    "timer_expire_entry": 2,
    "tcp_probe": 2,
}


class Kernel:
    """A kernel by the number of arguments of its raw tracepoints."""

    def __init__(self, **changes: int) -> None:
        self._arguments = {**TODAY, **changes}

    def hook_arguments(self, tracepoint: str) -> int:
        return self._arguments.get(tracepoint, 0)

    def hook_type(self, tracepoint: str) -> int | None:
        return 77 if self.hook_arguments(tracepoint) else None

    def function(self, name: str) -> int | None:
        return {"bpf_iter_task_file": 78}.get(name)


def chosen(kernel: Kernel, *, kprobes: bool = True, timers: TimerFunctions = BOTH) -> dict[str, tuple[str, str]]:
    probes = choose(kernel, kprobes=kprobes, timers=timers)
    return {probe.event: (probe.status, str(probe.attachment)) for probe in probes}


def test_a_kernel_of_today() -> None:
    assert chosen(Kernel()) == {
        "retransmit": ("ok", "raw tracepoint tcp_retransmit_skb"),
        "retransmit (SYN/ACK)": ("ok", "raw tracepoint tcp_retransmit_synack"),
        "state": ("ok", "raw tracepoint inet_sock_set_state"),
        "keepalive": ("ok", "kprobe tcp_write_wakeup"),
        "reset (received)": ("ok", "raw tracepoint tcp_receive_reset"),
        "reset (sent)": ("ok", "raw tracepoint tcp_send_reset"),
        "reset (refused)": ("ok", "raw tracepoint kfree_skb"),
        "error": ("ok", "raw tracepoint inet_sk_error_report"),
        "resume": ("ok", "typed raw tracepoint tcp_probe"),
        "found, waiting": ("ok", "iterator task_file"),
    }


def test_without_kprobes_keepalives_come_from_the_timer() -> None:
    assert chosen(Kernel(), kprobes=False)["keepalive"] == ("fallback", "typed raw tracepoint timer_expire_entry")


def test_with_kprobes_the_timer_stands_by() -> None:
    keepalive = next(p for p in choose(Kernel(), kprobes=True, timers=BOTH) if p.event == "keepalive")
    assert keepalive.if_refused is not None
    assert str(keepalive.if_refused.attachment) == "typed raw tracepoint timer_expire_entry"


def test_where_a_typed_program_is_refused_another_does() -> None:
    resume = next(p for p in choose(Kernel(), kprobes=True, timers=BOTH) if p.event == "resume")
    assert resume.attachment is not None and resume.if_refused is not None
    assert (resume.attachment.function, resume.attachment.btf_type) == ("typed_tcp_probe", 77)
    assert str(resume.if_refused.attachment) == "raw tracepoint tcp_probe"
    assert resume.if_refused.attachment is not None and resume.if_refused.attachment.function == "on_tcp_probe"


def test_without_kprobes_and_symbols_keepalives_are_missing() -> None:
    assert chosen(Kernel(), kprobes=False, timers=TimerFunctions(0, 0))["keepalive"] == ("missing", "None")


def test_linux_5_10() -> None:
    old = chosen(Kernel(tcp_retransmit_skb=2, tcp_send_reset=2, kfree_skb=2, inet_sk_error_report=0))
    assert old["reset (refused)"] == ("missing", "None")
    assert old["error"] == ("fallback", "None")
    assert old["reset (sent)"][0] == "ok"


@pytest.mark.parametrize("hook", ["tcp_retransmit_skb", "inet_sock_set_state"])
def test_nothing_can_be_told_without_retransmits_or_states(hook: str) -> None:
    with pytest.raises(TcpwatchError, match="cannot trace"):
        require(choose(Kernel(**{hook: 0}), kprobes=True, timers=BOTH))


def test_symbol_address_wants_the_exact_name() -> None:
    lines = [
        "ffffffff82000000 t tcp_keepalive_timer.cold\n",
        "ffffffff82000010 t my_tcp_keepalive_timer\n",
        "ffffffff8202df70 t tcp_keepalive_timer\n",
    ]
    wanted = ("tcp_keepalive_timer", "tcp_write_timer")
    assert symbol_addresses(lines, *wanted) == [0xFFFFFFFF8202DF70, 0]
    assert symbol_addresses(lines[:2], *wanted) == [0, 0]


def test_resume_can_be_left_out() -> None:
    probes = choose(Kernel(), kprobes=True, timers=BOTH, resume=False)
    assert [probe.attachment for probe in probes if probe.event == "resume"] == [None]


def test_calls_that_the_kernel_left_out_are_read_from_the_programs_fdinfo() -> None:
    fdinfo = b"pos:\t0\nflags:\t02000002\nrun_cnt:\t9\nrecursion_misses:\t12\nverified_insns:\t7\n"
    assert recursion_misses(fdinfo) == 12
    assert recursion_misses(b"pos:\t0\nprog_id:\t7\n") == 0, "before Linux 5.12"

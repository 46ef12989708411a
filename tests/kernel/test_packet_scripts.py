"""For each script of the scripted peer: the kernel's counters, what was on the wire and the events agree.

Where the kernel counts differently, docs/events.md names the difference ("What the kernel counts differently"), and
so does DIFFERENCES. One tcpwatch for all scripts, and where there are kprobes another one without them.
"""

from __future__ import annotations

import os
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from blindness import hidden_process
from packet_scripts import KEEPALIVES, PROBES, RETRANS, RSTS, SCRIPTS, SYNS, TIMEOUTS, WINDOW_PROBES, Script
from scripted import ScriptedPeer, Segment
from watching import WITHOUT_KPROBES, Watch

from tracer.kernel import clocks
from tracer.kernel.probes import kprobes_available
from tracer.kernel.program.btf import KernelTypes
from tracer.model.counts import counts_of
from tracer.model.events import Event
from tracer.model.validation import from_json

AT_ONCE = 32
TRIES = 3
"""Of a script that was kept from what it is for, on a slow machine; and of any where BPF does not see everything."""

with KernelTypes() as types:
    TELLS_FAILED = types.hook_arguments("tcp_retransmit_skb") > 2
    TELLS_RESETS_WITHOUT_SOCKET = types.hook_arguments("tcp_send_reset") > 2
    TELLS_ERRORS_OF_ORPHANS = types.hook_arguments("inet_sk_error_report") == 0
"""Linux 6.17: a retransmission that failed on this host. 6.10: a RST that no socket sends. Before 5.14: an error is
read from the socket as it is closed, whether somebody gets it or not."""

Variant = tuple[str, "int | str"]
VARIANTS: list[Variant] = [(each.name, family) for each in SCRIPTS.values() for family in each.families]


@dataclass
class Outcome:
    """What came of one run of a script: the kernel's counters, what was on the wire, and when and where it was."""

    netns: int = 0
    began_ns: int = 0
    ended_ns: int = 0
    failed: str = ""
    counted: dict[str, int] = field(default_factory=dict)
    wire: dict[str, int] = field(default_factory=dict)
    segments: str = ""
    events: dict[str, list[Event]] = field(default_factory=dict)  # by hook
    is_complete: bool = True  # no event was lost meanwhile


def _distance(before: int, ack: int) -> int:
    """How far an acknowledgement is after the one before; sequence numbers wrap around."""
    return (ack - before + (1 << 31)) & 0xFFFFFFFF


def on_the_wire(segments: list[Segment]) -> dict[str, int]:
    """What the kernel would count of these segments, from nothing but their headers."""
    counts = dict.fromkeys((RETRANS, RSTS, KEEPALIVES, WINDOW_PROBES, SYNS), 0)
    high: dict[tuple[int, int], int] = {}
    acked: dict[tuple[int, int], tuple[int, int]] = {}  # and the window, by the same
    syns: set[tuple[int, int, str, int]] = set()
    for each in segments:
        ends = (each.sport, each.dport) if each.is_ours else (each.dport, each.sport)
        if not each.is_ours:
            if "A" in each.flags:
                before = acked.get(ends, (each.ack, 0))[0]
                acked[ends] = (
                    max(before, each.ack, key=partial(_distance, before)),
                    each.window,
                )
        elif "R" in each.flags:
            counts[RSTS] += 1
        elif "S" in each.flags:
            syn = (*ends, each.flags, each.seq)
            if syn in syns:
                counts[RETRANS] += 1
                counts[SYNS] += 1
            else:
                syns.add(syn)
                high[ends] = each.end
        elif each.length or "F" in each.flags:
            last = high.get(ends, each.seq)
            is_again = 0 < (last - each.seq) & 0xFFFFFFFF < 1 << 31
            counts[RETRANS] += is_again
            if not is_again or 0 < (each.end - last) & 0xFFFFFFFF < 1 << 31:
                high[ends] = each.end
        elif ends in acked and each.seq == (acked[ends][0] - 1) & 0xFFFFFFFF:
            counts[KEEPALIVES if acked[ends][1] else WINDOW_PROBES] += 1
    return counts


def told(events: list[Event]) -> dict[str, int]:
    """What tcpwatch says of the same."""
    retransmits = [each for each in events if each.event == "retransmit"]
    return {
        RETRANS: sum(counts_of(each).segments for each in retransmits),
        SYNS: sum(each.kind in ("syn", "synack") and counts_of(each).segments for each in retransmits),
        # A FIN by that probe is of kind fin.
        PROBES: sum(
            (each.kind == "tlp" or (each.kind == "fin" and each.attempt == 0)) and each.send_error is None
            for each in retransmits
        ),
        KEEPALIVES: sum(each.event == "keepalive" for each in events),
        WINDOW_PROBES: sum(each.event == "window-probe" for each in events),
        RSTS: sum(each.event == "reset" and each.direction == "sent" for each in events),
        TIMEOUTS: sum(counts_of(each).timeouts for each in events),
    }


def run(script: Script, family: int | str, open_until_the_end: list[int]) -> Outcome:
    """One script, in this thread. Its namespace stays, so that no other gets its inode."""
    outcome = Outcome(began_ns=clocks.boottime_ns())
    peer = ScriptedPeer(family, **script.sysctls)
    try:
        with peer:
            outcome.netns = peer.netns
            open_until_the_end.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            script.run(peer)
            while outcome.counted != (counted := peer.counted()):
                peer.read()
                outcome.counted, outcome.ended_ns = counted, clocks.boottime_ns()
    except Exception:
        outcome.failed = traceback.format_exc()
    outcome.wire = on_the_wire(peer.segments)
    outcome.segments = str(peer)
    return outcome


def run_all(variants: list[Variant]) -> dict[Variant, Outcome]:
    """Many at a time, each in a namespace of its own, and watched."""
    preludes = {"": ""} | ({"without kprobes": WITHOUT_KPROBES} if kprobes_available() else {})
    namespaces: list[int] = []
    watches: dict[str, Watch] = {}
    try:
        for hook, prelude in preludes.items():
            watches[hook] = Watch(prelude=prelude)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            outcomes = pool.map(lambda each: run(SCRIPTS[each[0]], each[1], namespaces), variants)
            done = dict(zip(variants, outcomes))
        for hook, watch in watches.items():
            watch.stop()
            by_netns: dict[int, list[Event]] = {}
            for event in map(from_json, watch.events):
                by_netns.setdefault(event.netns or 0, []).append(event)
            is_complete = not any(each.event == "lost" for each in by_netns.get(0, ()))
            for outcome in done.values():
                outcome.is_complete = outcome.is_complete and is_complete
                outcome.events[hook] = [
                    each
                    for each in by_netns.get(outcome.netns, ())
                    if outcome.began_ns <= each.ktime_ns <= outcome.ended_ns
                ]
    finally:
        for watch in watches.values():
            watch.kill()
        for namespace in namespaces:
            os.close(namespace)
    return done


Counted = dict[str, int]


def given_up_unseen(_: Outcome) -> Counted:
    """reqsk_timer_handler(): the last expiry sends nothing and is no error."""
    return {TIMEOUTS: 1}


def orphan_given_up(_: Outcome) -> Counted:
    """tcp_write_timeout() of a socket that no process holds: nobody gets the error."""
    return {} if TELLS_ERRORS_OF_ORPHANS else {TIMEOUTS: 1}


def deferred(_: Outcome) -> Counted:
    """reqsk_timer_handler() counts each expiry, and syn_ack_recalc() lets those of the deferred time send nothing."""
    return {TIMEOUTS: 1}


def new_data(_: Outcome) -> Counted:
    """tcp_send_loss_probe() counts a probe that sends what was never sent before."""
    return {PROBES: 1}


def no_socket(_: Outcome) -> Counted:
    """tcp_v4_send_reset() and its IPv6 twin trace only those of full sockets before Linux 6.10."""
    return {} if TELLS_RESETS_WITHOUT_SOCKET else {RSTS: 1}


def never_left(outcome: Outcome) -> Counted:
    """__tcp_retransmit_skb() counts what it could not send, too, and has no tracepoint for it before Linux 6.17."""
    if TELLS_FAILED:
        return {}
    return {RETRANS: outcome.counted[RETRANS] - outcome.wire[RETRANS], **no_route(outcome)}


def no_route(outcome: Outcome) -> Counted:
    """The same without a route: tcp_retransmit_timer() counts, and __tcp_retransmit_skb() does not get so far."""
    if TELLS_FAILED or outcome.counted[TIMEOUTS] == 0:
        return {}
    sent_by_timer = outcome.wire[RETRANS] - outcome.counted[PROBES]
    giving_up = 1
    return {TIMEOUTS: outcome.counted[TIMEOUTS] - sent_by_timer - giving_up}


DIFFERENCES: dict[str, Callable[[Outcome], Counted]] = {
    "a request that is given up": given_up_unseen,
    "a request whose ACK is deferred": deferred,
    "a loss probe that sends new data": new_data,
    "an orphan that is given up": orphan_given_up,
    "a reset that no full socket sends": no_socket,
    "dropped on this host": never_left,
    "no route": no_route,
}
"""By how much the kernel's counters are higher than what the events say."""


def failures(script: Script, outcome: Outcome) -> list[str]:
    """What has kept a script from what it is for, in words."""
    if outcome.failed:
        return [outcome.failed]
    return [
        f"{name} grew by {outcome.counted[name]}: the script did not come to what it is for"
        for name, least in script.shows.items()
        if outcome.counted[name] < least
    ]


def disagreements(script: Script, outcome: Outcome) -> list[str]:
    """What does not fit together, in words."""
    found: list[str] = []
    for name, count in outcome.wire.items():
        if count != outcome.counted[name] and "dropped on this host" not in script.differs:
            found.append(f"{name}: {outcome.counted[name]} counted, {count} on the wire")
    for hook, events in outcome.events.items():
        said = told(events)
        expected = dict(outcome.counted)
        for difference in script.differs:
            for name, more in DIFFERENCES[difference](outcome).items():
                expected[name] -= more
        found += [
            f"{name}: {outcome.counted[name]} counted, {said[name]} told instead of {expected[name]} {hook}".strip()
            for name in said
            if said[name] != expected[name]
        ]
        found += sockets_that_change(events)
    return found


def is_about_probes(script: Script, outcome: Outcome) -> bool:
    """Whether only the number of loss probes does not fit."""
    return all(each.startswith(f"{PROBES}:") for each in disagreements(script, outcome))


def sockets_that_change(events: list[Event]) -> list[str]:
    """Connections with more or fewer `sock` than sockets. A request, which a SYN/ACK is sent for, is none yet."""
    socks: dict[tuple[Any, ...], set[str]] = {}
    lives: Counter[tuple[Any, ...]] = Counter()
    for each in events:
        if each.sock is None or each.kind == "synack" or each.lport is None:
            continue
        ends = (each.laddr, each.raddr, each.lport, each.rport)
        socks.setdefault(ends, set()).add(each.sock)
        lives[ends] += each.new_state == "ESTABLISHED"
    return [f"{len(found)} socks of {ends}" for ends, found in socks.items() if len(found) != max(lives[ends], 1)]


@pytest.fixture(scope="module")
def outcomes() -> dict[Variant, Outcome]:
    """Of all scripts."""
    done = run_all(VARIANTS)
    for _ in range(TRIES - 1):
        again = [each for each in VARIANTS if failures(SCRIPTS[each[0]], done[each])]
        unlike = [each for each in VARIANTS if each not in again and disagreements(SCRIPTS[each[0]], done[each])]
        # The kernel leaves a program out that was interrupted at work on the same CPU, and counts that.
        if unlike and (hidden_process() or not all(done[each].is_complete for each in unlike)):
            again += unlike
        # Where this process acknowledges late, a loss probe comes that may send new data ("new_data").
        again += [each for each in unlike if each not in again and is_about_probes(SCRIPTS[each[0]], done[each])]
        if not again:
            break
        done |= run_all(again)
    return done


@pytest.mark.parametrize(("name", "family"), VARIANTS, ids=lambda each: str(each))
def test_counters_wire_and_events_agree(outcomes: dict[Variant, Outcome], name: str, family: int | str) -> None:
    outcome = outcomes[name, family]
    script = SCRIPTS[name]
    found = failures(script, outcome) or disagreements(script, outcome)
    assert not found, "\n".join([*found, outcome.segments, *map(str, outcome.events.values())])


def test_there_are_enough_of_them() -> None:
    assert len(SCRIPTS) >= 60 and {family for _, family in VARIANTS} == {4, 6, "mapped"}

"""What the kernel sends of a connection that gets no answer, as the events of any moment from its socket.

One timeline is one physical history: the send time, the RTO, the timer wheel and the silence all fit together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from builders import SECOND, event
from hypothesis import strategies as st

from tracer.analysis.timer_wheel import bucket
from tracer.model.events import Event

BOOTED_AGO_S = 20_000


@dataclass(frozen=True)
class Frozen:
    """Data that was sent after a silence, and gets no answer until the kernel gives up.

    idle_ms: the silence before. tells_send_time: events have `stuck_ms`, as since that field exists.
    """

    hz: int = 250
    idle_ms: int = 3_600_000
    srtt_ms: float = 0.1
    rto: int = 51  # jiffies
    retries: int = 5
    loss_probe: bool = True
    user_timeout_ms: int = 0
    tells_send_time: bool = True
    sock: str = "frozen"
    start_s: float = 0
    rest: tuple[tuple[str, Any], ...] = (("keepalive", False), ("keepalive_idle_s", 7200))

    def signs(self) -> list[Event]:
        """The tail loss probe, then a retransmission for each expiry of the timer until it gives up."""
        made: list[Event] = []
        jiffies, rto = 0, self.rto
        if self.loss_probe:
            probe = max(2, -(-round((2 * self.srtt_ms + 200) * self.hz) // 1000))
            jiffies = bucket(0, min(probe, rto))
            made.append(self._sign(jiffies, "tlp", 0, rto, None))
        jiffies = first = bucket(jiffies, rto)
        # tcp_model_timeout(), net/ipv4/tcp_timer.c: the RTO doubles nine times, up to TCP_RTO_MAX.
        model_ms = ((2 << min(self.retries, 9)) - 1) * 200 + max(0, self.retries - 9) * 120_000
        limit_ms = self.user_timeout_ms or model_ms
        for attempt in range(1, 40):
            if attempt > 1 and self._ms(jiffies - first) >= limit_ms:
                break
            made.append(self._sign(jiffies, "rto", attempt, rto, self._ms(jiffies - first)))
            rto = min(2 * rto, 120 * self.hz)
            timeout = rto
            if self.user_timeout_ms:
                left_ms = self.user_timeout_ms - self._ms(jiffies - first)
                timeout = max(1, min(rto, -(-left_ms * self.hz // 1000)))
            jiffies = bucket(jiffies, timeout)
        return made

    def gave_up(self) -> list[Event]:
        """What follows the last of the signs: the close and its error."""
        last = self.signs()[-1]
        rto = round((last.rto_ms or 0) * self.hz / 1000)
        timeout = min(2 * rto, 120 * self.hz)
        if self.user_timeout_ms:
            left_ms = self.user_timeout_ms - (last.retrying_ms or 0)
            timeout = max(1, min(timeout, -(-left_ms * self.hz // 1000)))
        jiffies = bucket(last.jiffies or 0, timeout)
        at_ms = self._ms(jiffies)
        common: dict[str, Any] = {"sock": self.sock, "silent_ms": self.idle_ms + at_ms, **dict(self.rest)}
        at_s = self.start_s + BOOTED_AGO_S + at_ms / 1000
        return [
            event("state", at_s, old_state="ESTABLISHED", new_state="CLOSE", state="CLOSE", **common),
            event("error", at_s + 0.00005, error="ETIMEDOUT", errno=110, state="CLOSE", unacked_bytes=34, **common),
        ]

    def found(self, index: int, part: float) -> Event:
        """The connection as a walk finds it after the sign of that index; part: of the time to the next, 0 to 1."""
        signs = [*self.signs(), self.gave_up()[0]]
        before, after = signs[index], signs[index + 1]
        before_jiffies = before.jiffies or 0
        after_jiffies = round((after.ktime_ns - before.ktime_ns) / SECOND * self.hz) + before_jiffies
        now = before_jiffies + int((after_jiffies - before_jiffies) * part)
        at_ms = self._ms(now)
        rto_ms = min(2 * (before.rto_ms or 0), 120_000)
        known = {**before.known(), "ktime_ns": 0, "time_ns": 0}
        for name in ("time_ns", "ktime_ns", "event", "kind", "family", "laddr", "raddr", "lport", "rport", "netns"):
            known.pop(name, None)
        known |= {
            "silent_ms": self.idle_ms + at_ms,
            "retrying_ms": (before.retrying_ms or 0) + self._ms(now - before_jiffies),
            "rto_ms": rto_ms,
            "backoff": before.attempt,
            "jiffies": now,
            "timer_ms": self._ms(after_jiffies - now),
            "stuck_ms": at_ms,
            "kind": "retransmit",
        }
        return event("found", self.start_s + BOOTED_AGO_S + at_ms / 1000, **known)

    def _ms(self, jiffies: int) -> int:
        return jiffies * 1000 // self.hz

    def _sign(self, jiffies: int, kind: str, attempt: int, rto: int, retrying_ms: int | None) -> Event:
        at_ms = self._ms(jiffies)
        return event(
            "retransmit",
            self.start_s + BOOTED_AGO_S + at_ms / 1000,
            sock=self.sock,
            kind=kind,
            attempt=attempt,
            ca_state="Loss" if attempt else "Open",
            backoff=max(0, attempt - 1),
            rto_ms=self._ms(rto),
            rto_max_ms=120_000,
            srtt_ms=self.srtt_ms,
            retries=self.retries,
            retrying_ms=retrying_ms,
            jiffies=jiffies,
            silent_ms=self.idle_ms + at_ms,
            stuck_ms=at_ms if self.tells_send_time else None,
            unacked_bytes=34,
            snd_wnd=65536,
            user_timeout_ms=self.user_timeout_ms,
            keepalive_interval_s=75,
            keepalive_probes=9,
            **dict(self.rest),
        )


@st.composite
def frozen(draw: st.DrawFn) -> Frozen:
    """Any such history."""
    hz = draw(st.sampled_from([100, 250, 1000]))
    srtt_ms = draw(st.sampled_from([0.05, 0.8, 12.0, 180.0]))
    return Frozen(
        hz=hz,
        idle_ms=draw(st.sampled_from([0, 40, 5_000, 64_000, 70_400, 350_000, 3_600_000, 14_400_000])),
        srtt_ms=srtt_ms,
        rto=-(-round((200 + draw(st.sampled_from([1.0, 2.0])) * srtt_ms) * hz) // 1000),
        retries=draw(st.sampled_from([3, 5, 8, 15])),
        loss_probe=draw(st.booleans()),
        user_timeout_ms=draw(st.sampled_from([0, 0, 0, 30_000])),
        tells_send_time=draw(st.booleans()),
        rest=(("keepalive", draw(st.booleans())), ("keepalive_idle_s", 7200)),
    )

"""When the kernel gives up: against what was measured, at the cliffs, and against a kernel that is a little late."""

from __future__ import annotations

import random
from typing import Any

import pytest
from builders import SECOND, event
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tracer.analysis.give_up import GiveUp
from tracer.analysis.timeouts import gives_up, next_expiry_ns
from tracer.analysis.timer_wheel import bucket, lateness
from tracer.model.events import Event

HZS = (100, 250, 300, 1000)
JIFFIES = 568_222


def rto(**fields: Any) -> Event:
    """The first RTO retransmission, with the ordinary RTO at HZ=250."""
    ordinary: dict[str, Any] = {
        "kind": "rto",
        "jiffies": JIFFIES,
        "rto_ms": 204,
        "rto_max_ms": 120_000,
        "attempt": 1,
        "backoff": 0,
        "retrying_ms": 0,
        "retries": 15,
        "user_timeout_ms": 0,
        "snd_wnd": 65536,
        "ca_state": "Loss",
    }
    return event("retransmit", **{**ordinary, **fields})


def tlp(**fields: Any) -> Event:
    return rto(**{"kind": "tlp", "attempt": 0, "retrying_ms": None, "ca_state": "Open", **fields})


def syn(**fields: Any) -> Event:
    ordinary = {"kind": "syn", "state": "SYN_SENT", "rto_ms": 1000, "retrying_ms": 1004, "syn_linear_timeouts": 4}
    return rto(**{**ordinary, "snd_wnd": 0, "ca_state": "Open", **fields})


def probe(**fields: Any) -> Event:
    ordinary: dict[str, Any] = {"jiffies": JIFFIES, "attempt": 1, "keepalive_interval_s": 75, "keepalive_probes": 9}
    return event("keepalive", **{**ordinary, "silent_ms": 7_200_000, "user_timeout_ms": 0, **fields})


def window_probe(name: str = "window-probe", **fields: Any) -> Event:
    """The third probe of a closed window, of which the first two were not answered."""
    ordinary: dict[str, Any] = {
        "jiffies": JIFFIES,
        "rto_ms": 204,
        "rto_max_ms": 120_000,
        "attempt": 3,
        "backoff": 2,
        "probes_out": 2,
        "retrying_ms": 1_200,
        "retries": 4,
        "user_timeout_ms": 0,
        "unsent_bytes": 3_000,
        "snd_wnd": 0,
    }
    return event(name, **{**ordinary, **fields})


def window(what: Event, hz: int = 250) -> tuple[float, float]:
    """Seconds from the event on."""
    give_up = gives_up(what, hz)
    assert give_up is not None
    return (give_up.earliest_ns - what.ktime_ns) / SECOND, (give_up.latest_ns - what.ktime_ns) / SECOND


def exactly(what: Event, hz: int = 250) -> float:
    earliest, latest = window(what, hz)
    assert earliest == latest
    return earliest


@pytest.mark.parametrize(
    ("what", "seconds"),
    [
        (rto(jiffies=568_222, retries=3), 6.280),
        (rto(jiffies=568_234, retries=6), 26.200),
        (rto(jiffies=550_190, retries=15), 938.824),
        (tlp(jiffies=550_138, retries=15), 939.032),
        (rto(jiffies=568_296, retries=3, rto_ms=304), 4.448),
        (rto(jiffies=568_242, retries=5, user_timeout_ms=3000), 3.004),
        (syn(jiffies=568_424, retries=2, retrying_ms=1024), 6.112),
    ],
)
def test_ends_that_were_measured(what: Event, seconds: float) -> None:
    """Linux 6.18, HZ=250: each is one connection from its first RTO, or loss probe, to ETIMEDOUT."""
    assert exactly(what) == pytest.approx(seconds, abs=0.0045)  # one jiffy


@pytest.mark.parametrize(
    ("retries", "rto_ms", "low", "high"),
    [
        (3, 204, 6.53, 6.89),
        (5, 204, 13.06, 13.67),
        (6, 204, 26.11, 26.98),
        (8, 204, 104.45, 109.42),
        (15, 204, 928.90, 948.20),
        (5, 104, 13.31, 13.93),
        (5, 304, 19.46, 20.35),
    ],
)
def test_wherever_in_the_wheel(retries: int, rto_ms: int, low: float, high: float) -> None:
    """Seconds from the write, which is a loss probe and an RTO before: the bounds that any alignment leaves."""
    before = 2 * rto_ms / 1000
    for start in range(0, 4096, 3):
        earliest, latest = window(rto(jiffies=start, retries=retries, rto_ms=rto_ms))
        assert low - 0.01 <= before + earliest <= before + latest <= high + 0.01


def test_a_quarter_of_an_hour_ahead_is_the_same_at_each_of_sixteen_expiries() -> None:
    jiffies, value, seconds = JIFFIES, 51, exactly(rto())
    elapsed, attempts = 0, 1
    while True:
        value = min(2 * value, 30_000)
        expiry = bucket(jiffies, value)
        elapsed += expiry - jiffies
        jiffies = expiry
        if elapsed * 4 >= 924_600:
            break
        attempts += 1
        ahead = rto(
            jiffies=jiffies, attempt=attempts, backoff=attempts - 1, rto_ms=value * 4, retrying_ms=elapsed * 4
        )
        assert exactly(ahead) == pytest.approx(seconds - elapsed / 250, abs=0.001)
    assert attempts == 15
    assert elapsed / 250 == pytest.approx(seconds)


@pytest.mark.parametrize("hz", HZS)
def test_at_every_hz_not_before_the_limit(hz: int) -> None:
    """With the RTO of just over 200 ms that each comes to on a fast path."""
    ticks = hz // 5 + 1
    for start in range(0, 4096, 7):
        earliest, latest = window(rto(jiffies=start, rto_ms=ticks * 1000 // hz, retries=8), hz)
        assert 102.2 - 0.02 <= earliest <= latest < 2 * 102.2 * 1.125


def test_a_cliff_shows_both_candidates() -> None:
    """With tcp_rto_max_ms=1000 the limit is 1.4 s and a second for each retry above two: an expiry 0 ms from it."""
    earliest, latest = window(rto(rto_max_ms=1000, retries=8, jiffies=568_222))
    assert earliest == pytest.approx(7.4)
    assert latest == pytest.approx(7.4 + 1.024, abs=0.005)
    assert exactly(rto(rto_max_ms=1000, retries=8, jiffies=123_450)) == pytest.approx(7.416)


def test_the_wheel_takes_an_rto_of_201_ms_past_the_limit() -> None:
    """At HZ=1000 the sixth expiry would be at 12.46 s, the limit is 12.6 s: what the wheel adds is always enough."""
    for start in range(0, 1 << 15, 5):
        earliest, latest = window(rto(jiffies=start, rto_ms=201, retries=5), 1000)
        assert 12.6 <= earliest <= latest < 13.6


def test_a_loss_probe_comes_an_rto_before_the_clock_starts() -> None:
    """The timer is armed for the RTO of 51 jiffies, and expires in the next."""
    assert exactly(tlp(jiffies=JIFFIES - 52)) == pytest.approx(52 / 250 + exactly(rto()))
    assert exactly(tlp(jiffies=JIFFIES - 52, kind="fin", state="FIN_WAIT1")) == pytest.approx(
        52 / 250 + exactly(rto())
    )


def test_a_recovery_that_failed_counts_from_its_first_retransmission() -> None:
    assert exactly(rto(retries=5, retrying_ms=700)) <= exactly(rto(retries=5))
    assert exactly(rto(retries=3, retrying_ms=2900)) == pytest.approx(0.424, abs=0.04)


@pytest.mark.parametrize("timeout_ms", [1, 300, 1000, 3000, 4000, 60_000])
def test_a_user_timeout_ends_it_to_a_slot_of_the_wheel(timeout_ms: int) -> None:
    earliest, latest = window(rto(user_timeout_ms=timeout_ms))
    assert timeout_ms / 1000 <= earliest <= latest
    assert latest <= timeout_ms / 1000 * 1.125 + 0.02


def test_a_user_timeout_that_is_over_ends_it_with_the_next_jiffy() -> None:
    late = rto(user_timeout_ms=1000, retrying_ms=1500, attempt=3, backoff=2)
    assert 0 < exactly(late) <= 3 / 250


@pytest.mark.parametrize(
    ("retries", "linear", "seconds"), [(1, 4, 3.105), (2, 4, 7.139), (3, 4, 19.529), (6, 4, 134.05), (3, None, 15.4)]
)
def test_connecting_counts_from_the_syn(retries: int, linear: int | None, seconds: float) -> None:
    """Measured from connect() on, all but the last: kernels before 6.5 double from the first SYN on."""
    first = syn(retries=retries, syn_linear_timeouts=linear)
    earliest, latest = window(first)
    assert 1.004 + earliest == pytest.approx(seconds, rel=0.05)
    assert latest - earliest < 0.3


def test_connecting_ends_with_the_last_syn_whatever_the_time() -> None:
    """tcp_syn_retries + tcp_syn_linear_timeouts retransmissions, though the socket's RTO is short."""
    short = syn(rto_ms=100, retrying_ms=104, retries=1, syn_linear_timeouts=0)
    assert exactly(short) == pytest.approx(0.2, abs=0.04)


def test_keepalive_gives_up_an_interval_after_its_last_probe() -> None:
    ahead = [exactly(probe(attempt=attempt)) for attempt in range(1, 10)]
    for probes_left, seconds in zip(range(9, 0, -1), ahead):
        assert 75 * probes_left <= seconds <= (75 + lateness(75, 250)) * probes_left
    assert exactly(probe(attempt=12)) == ahead[-1], "the number of probes was lowered meanwhile"


def test_keepalive_probes_without_number_are_a_window_or_never() -> None:
    earliest, latest = window(probe(keepalive_probes=5000))
    assert 75 * 5000 <= earliest < latest == (75 + lateness(75, 250)) * 5000
    assert gives_up(probe(keepalive_probes=2**31 - 1), 250) is None
    assert gives_up(rto(retries=2**31 - 1), 250) is None


def test_keepalive_with_a_user_timeout_gives_up_by_time() -> None:
    quick = probe(keepalive_interval_s=1, silent_ms=1000)
    quick.user_timeout_ms = 2500
    assert exactly(quick) == pytest.approx(2.048, abs=0.05)
    quick.user_timeout_ms = 500
    assert exactly(quick) == pytest.approx(1.024, abs=0.03), "not without a second probe"
    quick.user_timeout_ms = 2_000_000_000
    earliest, latest = window(quick)
    assert 2_000_000 - 1 <= earliest <= latest <= 2_000_000 + 2


def test_icmp_unreachable_gives_a_window() -> None:
    """The RTO is set back with each, so that the first expiry past the limit may come at once."""
    for what in (
        tlp(retries=3, soft_error="EHOSTUNREACH"),
        rto(retries=3, soft_error="EHOSTUNREACH"),
        rto(retries=3, soft_error="EHOSTUNREACH", attempt=5, backoff=1, rto_ms=408, retrying_ms=1500),
    ):
        earliest, latest = window(what)
        left = 3.0 - (what.retrying_ms or 0) / 1000
        assert earliest == pytest.approx(left, abs=0.001)
        assert left + 0.4 < latest < 2.5 * left + 1.5


def test_icmp_that_leaves_the_rto_alone_gives_none() -> None:
    """Administratively prohibited: two retransmissions doubled the RTO, with the error on the socket."""
    second = {"attempt": 2, "backoff": 1, "rto_ms": 408, "retrying_ms": 420}
    assert exactly(rto(soft_error="EHOSTUNREACH", **second)) == exactly(rto(**second))


@pytest.mark.parametrize("kind", ["tlp", "rto"])
def test_what_could_not_be_sent_counts_from_an_earlier_time(kind: str) -> None:
    what = (tlp if kind == "tlp" else rto)(retries=3, send_error="EHOSTUNREACH")
    earliest, latest = window(what)
    assert 3.0 - 0.5 <= earliest < 3.0
    assert exactly(rto(retries=3)) < latest < 8


def test_an_orphan_ends_sooner_where_the_rto_reaches_its_maximum() -> None:
    """tcp_orphan_retries=0 means 8 until then, and 0 from then on; the event cannot tell it from a real 8."""
    earliest, latest = window(rto(retries=8, orphan=True, rto_max_ms=30_000, rto_ms=16_000, attempt=7, backoff=6))
    assert earliest == pytest.approx(30, abs=4)
    assert latest == pytest.approx(102.2, abs=35)


@pytest.mark.parametrize(
    "what",
    [
        rto(kind="fast", attempt=0, retrying_ms=None, ca_state="Recovery"),
        rto(kind="synack", jiffies=None, rto_ms=None),
        rto(jiffies=None),
        rto(rto_ms=None),
        rto(retries=None),
        rto(retrying_ms=None),
        probe(keepalive_interval_s=None),
        probe(jiffies=None),
        probe(silent_ms=None, user_timeout_ms=1000),
        event("state", new_state="CLOSE"),
        event("window-probe", jiffies=JIFFIES, attempt=1),
        window_probe(probes_out=0),
        window_probe(probes_out=1),
        window_probe(retries=None),
    ],
)
def test_unknown_is_said(what: Event) -> None:
    assert gives_up(what, 250) is None


def test_a_closed_window_does_not_save_an_orphan_or_a_connect() -> None:
    assert exactly(rto(snd_wnd=0, orphan=True)) == exactly(rto(orphan=True))
    assert gives_up(syn(), 250) is not None


@pytest.mark.parametrize(
    ("what", "jiffies"),
    [
        (rto(), 102),
        (tlp(), 51),
        (rto(kind="fast", attempt=0, retrying_ms=None, ca_state="Recovery"), 51),
        (rto(attempt=9, backoff=8, rto_ms=120_000, retrying_ms=400_000), 30_000),
        (rto(user_timeout_ms=300), 75),
        (rto(attempt=3, backoff=0, retrying_ms=400, soft_error="EHOSTUNREACH"), 125),
        (syn(), 250),
        (syn(attempt=5, retrying_ms=5000), 500),
        (probe(), 75 * 250),
    ],
)
def test_the_next_expiry(what: Event, jiffies: int) -> None:
    """At most a slot of the wheel after what the timer was armed with, and what a machine is late."""
    expiry_ns = next_expiry_ns(what, 250)
    assert expiry_ns is not None
    seconds = (expiry_ns - what.ktime_ns) / SECOND
    assert jiffies / 250 < seconds <= jiffies / 250 + lateness(jiffies / 250, 250) + 0.01


def test_no_next_expiry_of_what_has_no_timer() -> None:
    assert next_expiry_ns(event("state", new_state="CLOSE"), 250) is None
    assert next_expiry_ns(rto(kind="synack", jiffies=None), 250) is None
    assert next_expiry_ns(probe(keepalive_interval_s=None), 250) is None


def test_the_wheel() -> None:
    """The slots of the levels begin at 63, 504, 4032 … jiffies; one less is ahead while a handler runs."""
    assert bucket(1000, 51) == 1052
    assert bucket(1000, 63) == 1064
    assert bucket(1000, 64) == 1064 + 8
    assert bucket(1000, 102) == 1104
    assert bucket(1001, 510) == 1536
    # Armed for two hours at HZ=250: what timer:timer_start showed on 6.18.
    assert bucket(4_298_064_620 - 1_800_000, 1_800_000) == 4_298_080_256


def test_lateness_is_a_slot() -> None:
    assert lateness(7200, 250) == pytest.approx(131.072)
    assert lateness(7200, 1000) == pytest.approx(262.144)
    assert lateness(0.2, 250) == pytest.approx(0.004)


def late_kernel(
    *, hz: int, jiffies: int, rto: int, rto_max: int, limit_ms: int, user_timeout: bool, delays: random.Random
) -> float:
    """Milliseconds from the first RTO on after which a kernel gives up whose timers are all up to 4 ms late."""
    tick_ms = 1000 / hz
    now_ms = start_ms = jiffies * tick_ms + delays.uniform(0, tick_ms)
    while True:
        rto = min(2 * rto, rto_max)
        timeout = rto
        if user_timeout:
            left_ms = limit_ms - (int(now_ms) - int(start_ms))
            timeout = min(timeout, -(-left_ms * hz // 1000)) if left_ms > 0 else 1
        slot = 1
        while timeout - 1 >= 63 * slot:
            slot *= 8
        expiry = (int(now_ms / tick_ms) + timeout) // slot * slot + slot
        now_ms = expiry * tick_ms + delays.uniform(0, 4)
        if int(now_ms) - int(start_ms) >= limit_ms:
            return now_ms - start_ms


@example(300, 56, 0.033203125, 0, 5997, 5, 2)  # a jiffy more was another slot of the wheel
@example(100, 3935877895, 0.8533819859361357, 13, 53677, 1, 1181623781)
@example(1000, 4023915114, 2.148960207867643, 5, 30168, 5, 88764477)
@settings(max_examples=400)
@given(
    hz=st.sampled_from(HZS),
    jiffies=st.integers(0, 2**32 - 1),
    rto_s=st.floats(0.02, 3),
    retries=st.integers(0, 15),
    user_timeout_ms=st.one_of(st.just(0), st.integers(1, 100_000)),
    rto_max_s=st.sampled_from((1, 5, 30, 120)),
    seed=st.integers(0, 2**32),
)
def test_a_kernel_that_is_a_little_late_is_within(
    hz: int, jiffies: int, rto_s: float, retries: int, user_timeout_ms: int, rto_max_s: int, seed: int
) -> None:
    ticks = max(2, round(rto_s * hz))
    first = rto(
        jiffies=jiffies,
        rto_ms=int(ticks * 1000 / hz),
        rto_max_ms=rto_max_s * 1000,
        retries=retries,
        user_timeout_ms=user_timeout_ms,
    )
    earliest, latest = window(first, hz)
    doublings = (rto_max_s * 5).bit_length() - 1
    model_ms = 200 * (2 ** (min(retries, doublings) + 1) - 1) + max(0, retries - doublings) * rto_max_s * 1000
    real = late_kernel(
        hz=hz,
        jiffies=jiffies,
        rto=ticks,
        rto_max=rto_max_s * hz,
        limit_ms=user_timeout_ms or model_ms,
        user_timeout=user_timeout_ms > 0,
        delays=random.Random(seed),
    )
    # A jiffy, or what the timers before it were late, sooner; 50 ms are promised.
    assert earliest - max(1.001 / hz, 0.005) <= real / 1000 <= latest + 0.051


@given(
    hz=st.sampled_from(HZS),
    jiffies=st.integers(0, 2**32 - 1),
    rto_ms=st.integers(8, 120_000),
    retries=st.integers(0, 255),
    attempt=st.integers(0, 20),
    backoff=st.integers(0, 20),
    retrying_ms=st.integers(0, 2_000_000),
    soft_error=st.sampled_from((None, "EHOSTUNREACH")),
    send_error=st.sampled_from((None, "EPERM")),
    user_timeout_ms=st.sampled_from((0, 1, 5000, 2**31)),
    state=st.sampled_from(("ESTABLISHED", "SYN_SENT")),
)
def test_whatever_the_event_says(hz: int, retries: int, attempt: int, **fields: Any) -> None:
    """Never before now, never inside out, and more retries never make it sooner."""
    what = [
        rto(retries=count, attempt=attempt, kind="rto" if attempt else "tlp", **fields)
        for count in (retries, retries + 1)
    ]
    fewer, more = (gives_up(each, hz) for each in what)
    assert isinstance(fewer, GiveUp) and isinstance(more, GiveUp)
    for give_up in (fewer, more):
        assert what[0].ktime_ns <= give_up.earliest_ns <= give_up.latest_ns
    assert fewer.earliest_ns <= more.earliest_ns
    assert fewer.latest_ns <= more.latest_ns + SECOND // 20  # what is called exact
    expiry_ns = next_expiry_ns(what[0], hz)
    assert expiry_ns is not None and expiry_ns > what[0].ktime_ns


@pytest.mark.parametrize(
    ("what", "seconds"),
    [
        # After 1.632 and 3.264 s more: nothing is doubled more often than tcp_retries2 says.
        (window_probe(), 4.9),
        (window_probe(retries=5), 11.5),
        (window_probe(probes_out=0, user_timeout_ms=2_000), 0.80),
        (window_probe(probes_out=0, user_timeout_ms=60_000), 11.6),
        (window_probe(retries=2), 0.84),
        (window_probe("unsent", snd_wnd=65_536, attempt=2, backoff=1, probes_out=1, retries=3), 2.6),
        # No room in the queue of this host: every 500 ms.
        (window_probe("unsent", snd_wnd=65_536, attempt=4, backoff=0, probes_out=3, retries=8), 2.57),
    ],
)
def test_the_end_of_what_the_probe_timer_does(what: Event, seconds: float) -> None:
    assert exactly(what) == pytest.approx(seconds, rel=0.07)


def test_an_orphan_whose_window_is_closed_ends_though_the_peer_answers() -> None:
    earliest, latest = window(window_probe(probes_out=0, backoff=8, attempt=9, retries=8, orphan=True))
    assert 100 < earliest <= latest < 400


def test_a_window_that_is_closed_on_data_in_flight_ends_after_one_or_two_of_the_largest_rtos() -> None:
    earliest, latest = window(rto(snd_wnd=0, silent_ms=20_000, stuck_ms=20_000))
    assert earliest == 100 and 220 < latest < 350
    earliest, latest = window(rto(snd_wnd=0, silent_ms=2_000, stuck_ms=2_000, user_timeout_ms=5_000))
    assert earliest == 3 and latest > 5


def test_a_thin_stream_makes_more_retransmissions_of_the_same_time() -> None:
    first = rto(retries=4, thin=True)
    assert exactly(first) > exactly(rto(retries=4)), "6.2 s are passed by the seventh RTO doubled, not by the fifth"
    seventh = rto(retries=4, thin=True, attempt=7, backoff=0, retrying_ms=1_260)
    eighth = rto(retries=4, thin=True, attempt=8, backoff=1, retrying_ms=1_680, rto_ms=408)
    assert exactly(seventh) > 4 and exactly(eighth) > 4
    assert window(tlp(retries=4, thin=True))[0] < window(tlp(retries=4, thin=True))[1], "it is not decided yet"

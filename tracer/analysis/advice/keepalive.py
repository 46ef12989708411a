"""Advice about keepalive: probes that come before the path forgets the session, and when a setting takes effect."""

from __future__ import annotations

import math
from typing import NamedTuple

from tracer.analysis.advice.commands import protect_all, protect_service
from tracer.analysis.advice.context import AdviceContext, programs, service_port, setting_in_words
from tracer.analysis.advice.steps import first_fitting, shorter
from tracer.analysis.advice.sysctls import permanent, set_now
from tracer.analysis.clients import INTERVAL_S, MYSQL, POSTGRESQL, REDIS, filled, one_of
from tracer.analysis.keepalive_time import (
    DEFAULT_KEEPALIVE_S,
    is_cautious,
    is_proven,
    keepalive_for,
    narrowed,
    why_default,
)
from tracer.analysis.timer_wheel import lateness
from tracer.model.durations import duration, setting
from tracer.model.events import Event

TURN_ON = "the application has to set SO_KEEPALIVE"
NO_SYSCTL = "Keepalive is off on this socket, and no sysctl turns it on"
_SERVER_SYSCTLS = "sudo sysctl -w net.ipv4.tcp_keepalive_time={seconds} net.ipv4.tcp_keepalive_intvl={interval}"
_SERVER_PROBES = {
    MYSQL: f"MySQL and MariaDB have keepalive on. On the peer: {_SERVER_SYSCTLS}",
    POSTGRESQL: f"PostgreSQL has keepalive on. On the peer: {_SERVER_SYSCTLS}",
    REDIS: "Redis has keepalive on, with a time of its own. "
    "On the peer: redis-cli CONFIG SET tcp-keepalive {seconds}",
}


class Cure(NamedTuple):
    """The text of the step, empty without one, further lines, and the command for connections that are open now."""

    step: str
    further: list[str]
    protect: str = ""


NOTHING = Cure("", [])


def probe_sooner(context: AdviceContext) -> Cure:
    """How to get probes before the path forgets the session: turn keepalive on, or make it probe sooner."""
    event = context.event
    if event.keepalive is False:
        return _turn_on(context)
    period_s = _period_s(event)
    if event.keepalive and period_s is not None and not _is_late(context):
        unanswered = (
            f"A keepalive probe was due after {setting(period_s)} of silence, and none was answered. Its timer was "
            "armed before that time was set, or the path was dead by then. tcpwatch protect arms it anew. Or "
            "reconnect, and see whether the new connection's probes are answered."
        )
        return Cure("", [unanswered], _protect(context))
    step, further, protect = set_time(context)
    return Cure(step, [*further, *_other_ways(context)], protect)


def _protect(context: AdviceContext) -> str:
    """Sets keepalive on the connections that are open now; empty where no time is known."""
    seconds = keepalive_for(context.idle_timeout, context.idle_ms, context.hz)
    return protect_all(context, seconds) if seconds is not None else ""


def _follow(context: AdviceContext, text: str, further: list[str]) -> Cure | None:
    """Keepalive from outside, for a program without a setting for it; None where no time is known."""
    seconds = keepalive_for(context.idle_timeout, context.idle_ms, context.hz)
    command = "" if seconds is None else protect_all(context, seconds, "--follow")
    if seconds is None or not command:
        return None
    step = first_fitting(f"{text}: {command}", f"keepalive is off; from outside: {command}")
    return Cure(step, [*further, *protect_service(context, seconds)])


def _turn_on(context: AdviceContext) -> Cure:
    """Keepalive for a socket that has none. A client's setting brings its times along, or the sysctls apply."""
    event = context.event
    seconds = keepalive_for(context.idle_timeout, context.idle_ms, context.hz)
    known = narrowed(context.idle_timeout, context.idle_ms)
    # A silence that was fatal within seconds leaves no whole second.
    value = seconds or (DEFAULT_KEEPALIVE_S if known.fatal_ms is None else 1)
    how = setting_in_words(event, lambda client: client.probes and filled(client.probes, value))
    candidates, _ = programs(event)
    names = one_of(each.name for each in candidates)
    instead = _other_ways(context)
    if not how and candidates and instead:
        no_setting = f"{NO_SYSCTL}; if this is {names}, it has no setting for that."
        further = [no_setting, *instead, *_why(context, value)]
        return _follow(context, f"keepalive is off; for {names}, from outside", further) or Cure(
            "keepalive is off; let the server probe", further
        )
    step = first_fitting(
        f"keepalive is off; {shorter(how) or TURN_ON}",
        f"keepalive is off; turn it on in {names}",
        "keepalive is off; turn it on in the application",
    )
    if any(each.sets_times for each in candidates):
        times = _why(context, seconds) if seconds else []
    else:
        times = _first_probe(context)
    further = [f"{NO_SYSCTL}; {how or TURN_ON}", *times, *instead]
    if not how and (followed := _follow(context, "keepalive is off; from outside", further)):
        return followed
    return Cure(step, further, _protect(context))


def _first_probe(context: AdviceContext) -> list[str]:
    """The sysctl for a socket with keepalive off: it applies once keepalive is on."""
    seconds = _seconds(context)
    if seconds is None:
        return []
    text = f"With keepalive on, the first probe must come within {setting(seconds)}"
    if context.event.keepalive_idle_own:
        return [f"{text}, by the application's TCP_KEEPIDLE.", *_why(context, seconds)]
    settings = _sysctls(context, seconds)
    return [set_now(context, text, settings), *_why(context, seconds), *permanent(context, settings)]


def _other_ways(context: AdviceContext) -> list[str]:
    """What else keeps the session: probes of the server (one end is enough), or messages of the application's own."""
    event = context.event
    seconds = keepalive_for(context.idle_timeout, context.idle_ms, context.hz)
    if seconds is None:
        return []
    lines = []
    let = "Or let the server probe, one end is enough"
    server = setting_in_words(event, lambda client: client.server_probes and filled(client.server_probes, seconds))
    port, is_local = service_port(event)
    if server:
        lines.append(f"{let}; {server}")
    elif event.keepalive is False and not is_local and port in _SERVER_PROBES:
        lines.append(f"{let}: {filled(_SERVER_PROBES[port], seconds)}")
    heartbeat = setting_in_words(event, lambda client: client.heartbeat and filled(client.heartbeat, seconds))
    if heartbeat:
        lines.append(f"Or let the application send something while idle; {heartbeat}")
    return lines


def set_time(context: AdviceContext) -> Cure:
    """A shorter time or interval, why that value, and when it takes effect. Nothing where both are short enough."""
    seconds = _seconds(context)
    if seconds is None:
        return NOTHING
    if context.event.keepalive_idle_own:
        return _set_own_time(context, seconds)
    settings = _sysctls(context, seconds)
    on = "keepalive is on" if context.event.keepalive else "if keepalive is on"
    step = first_fitting(
        *(set_now(context, f"{on}, {late}", settings) for late in (_lateness_of_probes(context), "probes are late"))
    )
    further = [*_why(context, seconds), *_takes_effect(context, seconds), *permanent(context, settings)]
    return Cure(step, further, protect_all(context, seconds))


def _lateness_of_probes(context: AdviceContext) -> str:
    """Which probes come too late, and after how much silence."""
    period_s = _period_s(context.event)
    if period_s is None:
        return "its first probe is late"
    # With an interval longer than the idle time, the first probe may be early enough and the second too late.
    is_first = period_s == context.event.keepalive_idle_s
    return f"{'first probe' if is_first else 'later probes'} after {setting(period_s)}"


def _set_own_time(context: AdviceContext, seconds: int) -> Cure:
    """For a socket with a TCP_KEEPIDLE: it wins over the sysctl (keepalive_time_when(), include/net/tcp.h)."""
    event = context.event
    further = [*_why(context, seconds), "This socket has a TCP_KEEPIDLE of its own, which no sysctl changes."]
    if not _idle_is_long(context):
        interval_s = INTERVAL_S if event.keepalive_interval_s is None else event.keepalive_interval_s
        step = f"TCP_KEEPINTVL of {setting(seconds)} in the application, not {setting(interval_s)}"
        return Cure(step, [*further, _interval_counts()], protect_all(context, seconds))
    own = _times(event, seconds)
    instead = f", not {setting(event.keepalive_idle_s)}" if event.keepalive_idle_s is not None else ""
    step = first_fitting(shorter(own), f"TCP_KEEPIDLE of {setting(seconds)} in the application{instead}")
    if own and shorter(own) != step:
        further.append(f"In the application, {own}")
    if _interval_is_long(context):
        further.append(_interval_counts())
    return Cure(step, further, protect_all(context, seconds))


def _interval_counts() -> str:
    return "Its TCP_KEEPINTVL has to be as short: after a probe it decides when the next comes."


def _seconds(context: AdviceContext) -> int | None:
    """The keepalive time to advise; None where none is known, or where what is set is short enough."""
    seconds = keepalive_for(context.idle_timeout, context.idle_ms, context.hz)
    period_s = _period_s(context.event)
    return None if period_s is not None and not _is_too_long(context, period_s) else seconds


def _sysctls(context: AdviceContext, seconds: int) -> list[str]:
    """The settings that are too long: the other must not grow."""
    too_long = {"time": _idle_is_long(context), "intvl": _interval_is_long(context)}
    return [f"net.ipv4.tcp_keepalive_{name}={seconds}" for name in too_long if too_long[name]]


def _why(context: AdviceContext, seconds: int) -> list[str]:
    """What the value rests on."""
    known = narrowed(context.idle_timeout, context.idle_ms)
    if known.fatal_ms is None or known.survived_ms != context.idle_timeout.survived_ms:
        return []
    if known.survived_ms is not None and is_proven(seconds, known, context.hz):
        survived = duration(known.survived_ms)
        return [f"A connection survived {survived} of silence, and a probe after {setting(seconds)} comes sooner."]
    fatal = duration(known.fatal_ms)
    enough = why_default() if seconds == DEFAULT_KEEPALIVE_S else f"{setting(seconds)} is less than half of {fatal}."
    unknown = f"No silence close to {fatal} is known to have been survived, so the idle timeout may be far shorter."
    return [f"{unknown} {enough}"]


def _is_too_long(context: AdviceContext, seconds: int) -> bool:
    """Whether a keepalive setting, time or interval, is longer than what is known of the path allows."""
    known = narrowed(context.idle_timeout, context.idle_ms)
    return not (is_proven(seconds, known, context.hz) or is_cautious(seconds, known, context.hz))


def _period_s(event: Event) -> int | None:
    """The longest silence between probes that are answered, seconds, but for the timer's lateness.

    After a probe the timer is armed for the interval, answered or not, and only then for the rest of the idle time
    (tcp_keepalive_timer(), net/ipv4/tcp_timer.c): where the interval is longer, it is what counts.
    """
    if event.keepalive_idle_s is None:
        return None
    interval_s = 0 if event.keepalive_interval_s is None else event.keepalive_interval_s
    return max(event.keepalive_idle_s, interval_s)


def _is_late(context: AdviceContext) -> bool:
    """Whether a probe may come later than the silence that was fatal."""
    period_s = _period_s(context.event)
    if period_s is None or context.idle_ms is None:
        return True
    return (period_s + lateness(period_s, context.hz)) * 1000 > context.idle_ms


def _idle_is_long(context: AdviceContext) -> bool:
    idle_s = context.event.keepalive_idle_s
    return idle_s is None or _is_too_long(context, idle_s)


def _interval_is_long(context: AdviceContext) -> bool:
    interval_s = context.event.keepalive_interval_s
    return _is_too_long(context, INTERVAL_S if interval_s is None else interval_s)


def _takes_effect(context: AdviceContext, seconds: int) -> list[str]:
    """From when on. An armed timer keeps its expiry; data does not touch it (tcp_keepalive_timer())."""
    period_s = _period_s(context.event)
    until = f" (in up to {setting(period_s)})" if period_s is not None else ""
    own = _times(context.event, seconds) if _idle_is_long(context) else ""
    candidates, is_local = programs(context.event)
    kept = [each.permanent for each in candidates if own and each.permanent]
    scope = "" if is_local else "for this client alone, "
    return [
        f"New connections use it at once, existing ones when their current timer expires{until}. "
        "tcpwatch protect changes these at once.",
        *([f"Or {scope}{own}"] if own else []),
        *kept,
    ]


def raise_firewall_timeout(context: AdviceContext) -> list[str]:
    """The alternative at the firewall: longer than the first probe may take."""
    period_s = _period_s(context.event)
    if not context.event.keepalive or period_s is None or not _is_late(context):
        return []
    late_s = lateness(period_s, context.hz)
    enough_s = math.ceil(period_s + late_s)
    enough_s = enough_s if enough_s < 120 else math.ceil(enough_s / 60) * 60
    return [
        f"Or raise the firewall's idle timeout to {setting(enough_s)} or more. "
        f"The probe due after {setting(period_s)} may be {duration(late_s * 1000)} late."
    ]


def _times(event: Event, seconds: int) -> str:
    """The candidates' settings for the time of the first probe."""
    return setting_in_words(event, lambda client: filled(client.probes or "", seconds) if client.sets_times else None)

"""The advice for connections that died while they were silent."""

from __future__ import annotations

from tracer.analysis.advice.checks import ends, idle_limit, orphan, others
from tracer.analysis.advice.commands import enter, probe_all, release_all
from tracer.analysis.advice.context import AdviceContext
from tracer.analysis.advice.keepalive import probe_sooner, raise_firewall_timeout, set_time
from tracer.analysis.advice.limits import limit_step, limit_the_wait
from tracer.analysis.advice.steps import Advice
from tracer.analysis.keepalive_time import narrowed
from tracer.analysis.middleboxes import matching
from tracer.model.durations import duration, setting

_IF_IT_OPENS = "If the new connection opens, a forgotten session is the likely cause."
_ALSO_RESET = "which others are dead; a reset ends these"


def idle_drop(context: AdviceContext) -> Advice:
    """Keepalive that comes in time; or what contradicts an idle timeout."""
    check, meaning = others(context, _IF_IT_OPENS)
    if context.contradicts_idle_timeout:
        return Advice(
            check=check,
            release=release_all(context),
            cure=limit_step(context),
            further=[
                *orphan(context),
                *_doubt(context),
                *meaning,
                *ends(context),
                *_refused(context),
                *limit_the_wait(context),
            ],
        )
    step, further, protect = probe_sooner(context)
    return Advice(
        check=check,
        release=release_all(context),
        protect=protect,
        cure=step or limit_step(context),
        further=[
            *orphan(context),
            *meaning,
            *further,
            *ends(context),
            *_refused(context),
            *limit_the_wait(context),
            *raise_firewall_timeout(context),
            *_suspects(context, "reset"),
        ],
    )


def idle_reset(context: AdviceContext) -> Advice:
    """As for a session that was dropped, but a peer may reset as well."""
    restart = (
        "A peer that restarted, or that closed the connection after its own idle limit, answers with a RST as well."
    )
    check, limit = idle_limit(context)
    if context.contradicts_idle_timeout:
        return Advice(check=check, further=[*_doubt(context), restart, *limit])
    probe = probe_all(context)
    which = [f"{_ALSO_RESET.capitalize()}: {probe}"] if check and probe else []
    if not check and probe:
        check = f"{_ALSO_RESET}: {probe}"
    step, further, protect = probe_sooner(context)
    suspects = _suspects(context, "silent")
    return Advice(
        check=check,
        protect=protect,
        cure=step,
        further=[*which, *further, restart, *limit, *raise_firewall_timeout(context), *suspects, *enter(context)],
    )


def keepalive_failed(context: AdviceContext) -> Advice:
    """End the wait; probe sooner unless this silence was survived before."""
    check, meaning = others(context, _IF_IT_OPENS, in_flight=False)
    did = "The keepalive probes are not answered: the path or the peer is probably dead."
    release = release_all(context)
    if context.survived_as_much:
        before = (
            "The connection survived a silence this long before. Look for a failover, a reboot or a route change."
        )
        return Advice(check=check, release=release, further=[did, before, *meaning, *ends(context)])
    step, further, protect = set_time(context)
    always = ["If the first probe always fails, the path has forgotten the session by then."] if further else []
    return Advice(
        check=check,
        release=release,
        protect=protect,
        cure=step,
        further=[did, *always, *meaning, *further, *ends(context)],
    )


def _doubt(context: AdviceContext) -> list[str]:
    survived_ms = context.longer_survived_ms
    why = "This connection survived a silence this long before, so an idle timeout is unlikely."
    if not context.survived_as_much and survived_ms is not None:
        survived = duration(survived_ms)
        why = f"A connection to this service survived {survived} of silence, so an idle timeout is unlikely."
    return [why, "Look for a failover, a reboot, a route change, or a firewall that lost its sessions at that time."]


def _refused(context: AdviceContext) -> list[str]:
    if not context.refused_reset:
        return []
    return [
        "A RST with the wrong sequence number was ignored (RFC 5961). It probably came from a firewall that dropped "
        "the session: let that firewall drop silently, or send the exact sequence number. Keepalive below its idle "
        "timeout avoids both."
    ]


def _suspects(context: AdviceContext, unlike: str) -> list[str]:
    """Known idle timeouts that fit, without those that are known to behave otherwise."""
    boxes = [each for each in matching(narrowed(context.idle_timeout, context.idle_ms)) if each.at_expiry != unlike]
    if not boxes:
        return []
    names = ", ".join(f"{each.name} {setting(each.timeout_s)}" for each in boxes)
    return [f"If one of these is on the path, its default idle timeout would fit: {names}."]

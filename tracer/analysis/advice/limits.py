"""Advice about the wait itself: settings that end it sooner next time."""

from __future__ import annotations

from tracer.analysis.advice.commands import protect_all
from tracer.analysis.advice.context import AdviceContext, programs, service_port, setting_in_words
from tracer.analysis.advice.steps import first_fitting, shorter
from tracer.analysis.clients import Client, one_of

_OPTION = "TCP_USER_TIMEOUT or a read timeout"
_IDLE_S, _TO_30S = 10, "--interval 5s --user-timeout 30s"
"""A user timeout also limits keepalive, so it has to be longer than two probes take: docs/acting.md."""


def limit_step(context: AdviceContext) -> str:
    """The step that limits how long sent data stays unanswered; empty where nothing is known, or a limit is set."""
    event = context.event
    if event.orphan or event.user_timeout_ms:
        return ""
    bound = setting_in_words(event, lambda client: client.bound)
    if not bound:
        return "" if service_port(event)[1] else f"limit the wait: {_OPTION}"
    candidates, _ = programs(event)
    names = one_of(each.name for each in candidates if each.bound)
    short = shorter(bound)
    return first_fitting(
        f"limit the wait; {short}", short, f"limit the wait in {names}", f"limit the wait: {_OPTION}"
    )


def limit_the_wait(context: AdviceContext) -> list[str]:
    """The same as a sentence, with the unit. A ping before use is not a limit: it waits as long."""
    event = context.event
    if event.orphan or event.user_timeout_ms:
        return []
    bound = setting_in_words(event, _bounded)
    if service_port(event)[1]:
        return [f"To limit the wait next time, {bound}"] if bound else []
    protect = protect_all(context, _IDLE_S, _TO_30S)
    return [
        f"To limit the wait next time, {bound}"
        if bound
        else f"To limit the wait next time, set {_OPTION}. A ping before use would hang as well.",
        *(
            [f"To limit it to 30s on open connections, which then probe after 10s of silence: {protect}"]
            if protect
            else []
        ),
    ]


def read_timeout(context: AdviceContext) -> str:
    """The step that limits the wait for a reply; empty at the server, which waits for its clients' requests."""
    event = context.event
    if event.orphan or service_port(event)[1]:
        return ""
    bound = setting_in_words(event, lambda client: client.bound if client.bound_unit else None)
    short = shorter(bound)
    return first_fitting(short and f"limit the wait; {short}", short, "set a read timeout in the client")


def _bounded(client: Client) -> str | None:
    if client.bound is None or not client.bound_unit:
        return client.bound
    return f"{client.bound} (N: {client.bound_unit}, more than its slowest answer takes)"

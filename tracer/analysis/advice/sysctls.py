"""Sysctls within advice: the command that sets them now, and the one that keeps them."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.analysis.advice.commands import here, is_own_namespace, with_place
from tracer.analysis.advice.context import AdviceContext

FILE = "/etc/sysctl.d/99-tcpwatch.conf"
"""Read after every other file of a usual system, 99-sysctl.conf included."""


def set_now(context: AdviceContext, text: str, settings: Sequence[str]) -> str:
    """`TEXT: sudo sysctl -w NAME=VALUE`, in the connection's network namespace."""
    return with_place(context, text, here(context, f"sysctl -w {' '.join(settings)}", root=True))


def permanent(context: AdviceContext, settings: Sequence[str]) -> list[str]:
    """How these settings outlast a restart. Files are for the host's own namespace, not for containers."""
    is_own = is_own_namespace(context)
    if context.own_netns and not is_own:
        return ["To make it permanent, set it among the sysctls of the container, or where the namespace is made."]
    # tee without -a would take away an earlier setting.
    lines = f"echo {settings[0]}" if len(settings) == 1 else f"printf '%s\\n' {' '.join(settings)}"
    where = "" if is_own else ", unless this is a container"
    return [f"To make it permanent{where}: {lines} | sudo tee -a {FILE}"]

"""Patterns for the names of containers, pods and units, as --container, --pod and --unit take them.

`*`, `?` and `[…]` mean what they mean to a shell. Case matters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate

MIN_ID = 12
"""The least characters of the beginning of a container's id. `docker ps` shows 12."""
_ID = re.compile(rf"[0-9a-f]{{{MIN_ID},64}}")
_UNIT_TYPES = (".service", ".scope", ".socket", ".mount", ".swap")


class Patterns:
    """Patterns. A name has to match one of them."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [re.compile(translate(pattern)) for pattern in patterns]

    def match(self, name: str | None) -> bool:
        """Whether a name that is known matches."""
        return name is not None and any(pattern.match(name) for pattern in self._patterns)


class ContainerPatterns:
    """The name of a container, or the beginning of its id."""

    def __init__(self, patterns: Iterable[str]) -> None:
        words = list(patterns)
        self._names = Patterns(words)
        self._ids = tuple(word for word in words if _ID.fullmatch(word))

    def match(self, container: str | None, name: str | None) -> bool:
        """Whether one of them is wanted. An LXC container has its name for an id."""
        if container is None:
            return False
        return container.startswith(self._ids) or self._names.match(name) or self._names.match(container)


class PodPatterns:
    """The name of a pod, or NAMESPACE/NAME."""

    def __init__(self, patterns: Iterable[str]) -> None:
        words = list(patterns)
        self._names = Patterns(word for word in words if "/" not in word)
        self._full_names = Patterns(word for word in words if "/" in word)

    def match(self, pod: str | None, namespace: str | None) -> bool:
        """Whether the pod is wanted."""
        if pod is None:
            return False
        return self._names.match(pod) or (namespace is not None and self._full_names.match(f"{namespace}/{pod}"))


class UnitPatterns:
    """The name of a unit. That of a user's manager, user@1000.service, stands for its units too."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._units = Patterns(patterns)

    def match(self, unit: str | None) -> bool:
        """Whether the unit is wanted."""
        if unit is None or self._units.match(unit):
            return unit is not None
        manager, slash, _ = unit.partition("/")
        return bool(slash) and self._units.match(manager)


def unit_name(text: str) -> str:
    """The unit that is meant: `nginx` is nginx.service, as for systemctl(1)."""
    return text if text.endswith((*_UNIT_TYPES, "*")) else f"{text}.service"

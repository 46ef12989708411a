"""Values of a JSON object that may hold anything, each checked. A ValueError names the member that is invalid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracer.model.fields import MAX_NUMBER

MAX_TEXT = 4096
"""Characters of a text."""
MAX_LISTED = 4096
"""Members of a list that are read."""
_REQUIRED = object()


def number(record: Mapping[str, Any], name: str, default: Any = _REQUIRED) -> Any:
    """A number from 0 to MAX_NUMBER, or the default where it is absent."""
    value = record.get(name, default)
    if value is _REQUIRED or (value is not default and not is_number(value)):
        raise ValueError(f"{name} is not a number")
    return value


def is_number(value: object) -> bool:
    """Whether it is a number from 0 to MAX_NUMBER."""
    return type(value) is int and 0 <= value <= MAX_NUMBER


def text(record: Any, name: str) -> str:
    """A text, shortened to MAX_TEXT."""
    return checked_text(record.get(name) if isinstance(record, dict) else None, name)


def checked_text(value: object, name: str) -> str:
    """The value of that name as a text, shortened to MAX_TEXT."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a text")
    return value[:MAX_TEXT]


def list_of(record: Mapping[str, Any], name: str) -> list[Any]:
    """A list; an empty one where it is absent."""
    value = record.get(name, [])
    if not isinstance(value, list):
        raise ValueError(f"{name} is not a list")
    return value


def object_of(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object; an empty one where it is absent."""
    value = record.get(name, {})
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not an object")
    return value

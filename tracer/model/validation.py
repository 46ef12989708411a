"""JSON objects → events, and back. Every value of a recording is checked here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

from tracer.model.events import DECLARATIONS, Event
from tracer.model.fields import MAX_NUMBER, MAX_PATH, json_types
from tracer.model.times import InvalidTime, format_time, parse_time


class InvalidEvent(ValueError):
    """A JSON object that is not an event; the text says why."""


MAX_MEMBERS = 16
"""Members of an object that is a value."""
MAX_SHORT_TEXT = 64
"""Characters of most texts in events. A record with longer ones is checked field by field."""
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "str": (str,),
    "bool": (bool,),
    "float": (int, float),
    "list[int]": (list,),
    "list[str]": (list,),
    "dict[str, int]": (dict,),
}
_TYPES = {name: _PYTHON_TYPES[json_type] for name, json_type in json_types(Event).items() if name != "time_ns"}
_OBJECTS = tuple(name for name, json_type in json_types(Event).items() if json_type.startswith("dict"))
_MAX_LENGTHS = {name: DECLARATIONS[name].max_length for name in _TYPES}
_NAMES = {name: name for name in _TYPES}
"""The one string object for each name: each JSON record has its own, which take more memory than the values."""


def to_json(event: Event) -> dict[str, Any]:
    """The event as a flat JSON object, `time` first."""
    record = {name: value for name, value in event.known().items() if value is not None}
    return {"time": format_time(record.pop("time_ns")), **record}


def from_json(record: Mapping[str, Any]) -> Event:
    """The event of a JSON object. Ignores unknown fields; raises InvalidEvent for a missing or invalid one."""
    if not isinstance(record, Mapping):
        raise InvalidEvent("not a JSON object")
    values = checked(record)
    for name in ("ktime_ns", "event"):
        if name not in values:
            raise InvalidEvent(f"{name} is missing")
    time_text = record.get("time")
    if not isinstance(time_text, str):
        raise InvalidEvent("time is missing")
    try:
        return Event.of({"time_ns": parse_time(time_text), **values})
    except InvalidTime as error:
        raise InvalidEvent(str(error)) from None


def checked(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an event in a JSON object, except `time`. Raises InvalidEvent for an invalid value."""
    if is_plain(record):
        values = {_NAMES[name]: value for name, value in record.items() if name != "time"}
    else:
        values = _checked_one_by_one(record)
    values.pop("time", None)
    check_lists(values)
    return values


def check_lists(values: Mapping[str, Any]) -> None:
    """Raise InvalidEvent for a list or an object with a member of another type."""
    if "pids" in values and not all(type(pid) is int and 0 <= pid <= MAX_NUMBER for pid in values["pids"]):
        raise InvalidEvent("pids has something else than numbers")
    if "advice" in values and not all(type(line) is str and len(line) <= MAX_PATH for line in values["advice"]):
        raise InvalidEvent("advice has something else than text")
    for name in _OBJECTS:
        if name in values and not _is_of_numbers(values[name]):
            raise InvalidEvent(f"{name} has something else than numbers")


def _is_of_numbers(value: Mapping[str, Any]) -> bool:
    return 0 < len(value) <= MAX_MEMBERS and all(
        len(name) <= MAX_SHORT_TEXT and (type(each) is bool or (type(each) is int and 0 <= each <= MAX_NUMBER))
        for name, each in value.items()
    )


def is_plain(record: Mapping[str, Any]) -> bool:
    """Whether all fields are known and valid, the members of lists aside. False also where a full check is needed."""
    try:
        numbers_of, texts_of = _getters(tuple(record), tuple(map(type, record.values())))
        numbers, texts = numbers_of(record), texts_of(record)
        # No number exceeds their sum, and the sum with a NaN compares as false.
        return min(numbers) >= 0 and sum(numbers) <= MAX_NUMBER and max(map(len, texts)) <= MAX_SHORT_TEXT
    except (KeyError, OverflowError):
        return False


_Getter = Callable[[Mapping[str, Any]], Sequence[Any]]


@lru_cache(maxsize=256)
def _getters(names: Sequence[str], types: Sequence[type]) -> tuple[_Getter, _Getter]:
    """Functions that return the numbers and the texts of a record. KeyError for an unknown name or a wrong type."""
    by_type: dict[type, list[str]] = {int: [], str: [], bool: [], list: [], dict: []}
    for name, each in zip(names, types):
        if name != "time" and each not in _TYPES[name]:
            raise KeyError(name)
        by_type[int if each is float else each].append(name)
    return _getter(by_type[int], default=0), _getter(by_type[str], default="")


def _getter(names: Sequence[str], default: Any) -> _Getter:
    if not names:
        defaults = (default,)
        return lambda _: defaults
    if len(names) == 1:
        name = names[0]
        return lambda record: (record[name],)
    return itemgetter(*names)


def _checked_one_by_one(record: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in record.items():
        types = _TYPES.get(name)
        if value is None or types is None:
            continue
        # The exact type: to Python, bool is an int.
        kind = type(value)
        if kind not in types:
            raise InvalidEvent(f"{name} is {value!r:.40}")
        if kind is str:
            if len(value) > (most := _MAX_LENGTHS[name]):
                raise InvalidEvent(f"{name} has more than {most} characters")
        elif (kind is int or kind is float) and not 0 <= value <= MAX_NUMBER:
            raise InvalidEvent(f"{name} is {value!r:.40}")
        values[_NAMES[name]] = value
    return values

"""Values in OTLP's JSON encoding: 64-bit integers are decimal strings, and attributes are lists of keys and values.

The form is that of opentelemetry/proto/common/v1/common.proto by the JSON mapping of Protocol Buffers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]

SCOPE = "tcpwatch"
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
"""The version of the semantic conventions that the names are from."""


def any_value(value: object) -> Json:
    """An AnyValue of a bool, an int, a float, a text, a sequence or a mapping of these."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, Mapping):
        return {"kvlistValue": {"values": attributes(value)}}
    if isinstance(value, (list, tuple)):
        return {"arrayValue": {"values": [any_value(each) for each in value]}}
    # A text of Protocol Buffers is UTF-8, which has no surrogates.
    return {"stringValue": str(value).encode("utf-8", "backslashreplace").decode("utf-8")}


def attributes(values: Mapping[str, object]) -> list[Json]:
    """The list of KeyValue."""
    return [{"key": key, "value": any_value(value)} for key, value in values.items()]


def resource(version: str, host: str) -> Json:
    """The Resource: tcpwatch on this host.

    service.instance.id is the host, which a receiver makes the `instance` of Prometheus of. There is no host.id:
    machine-id(5) asks to keep the machine's id off the network.
    """
    return {
        "attributes": attributes(
            {
                "service.name": "tcpwatch",
                "service.version": version,
                "service.instance.id": host,
                "host.name": host,
                "os.type": "linux",
            }
        )
    }

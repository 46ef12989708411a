"""Command lines without the secrets in them, to be shown."""

from __future__ import annotations

import re
from collections.abc import Iterable

HEADER_OPTION = "--otlp-header"
HIDDEN = "SECRET"
"""What is shown in place of a value."""
_MISTYPED = "--otlp-h"
"""How the option begins that a slip of the finger made of HEADER_OPTION."""
_PASSWORD = re.compile("://[^/]*@")


def without_secrets(arguments: Iterable[str]) -> list[str]:
    """The arguments of a command, with `NAME=SECRET` after --otlp-header, and without users and passwords in URLs."""
    shown: list[str] = []
    is_value = False
    for each in arguments:
        option, equals, value = each.partition("=")
        is_option = option.startswith(_MISTYPED) and not is_value
        if is_value:
            shown.append(_hidden(each))
        elif is_option and equals:
            shown.append(f"{option}={_hidden(value)}")
        else:
            shown.append(_PASSWORD.sub(f"://{HIDDEN}@", each))
        is_value = is_option and not equals
    return shown


def _hidden(header: str) -> str:
    name, equals, _ = header.partition("=")
    return f"{name}={HIDDEN}" if equals else HIDDEN

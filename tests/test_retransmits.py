from __future__ import annotations

import pytest

from tracer.kernel.retransmits import retransmit_kind


@pytest.mark.parametrize(
    ("kind", "sock"),
    [
        ("tlp", {"pending": 5}),
        ("rto", {"pending": 0, "ca_state": 4, "attempt": 1}),
        (
            "rto",
            {"pending": 1, "ca_state": 4, "attempt": 7, "backoff": 5, "silent_jiffies": 900},
        ),  # reverted by an ICMP error
        ("fast", {"pending": 1, "ca_state": 4, "attempt": 1, "backoff": 1}),  # the path's MTU has shrunk
        ("fast", {"pending": 1, "ca_state": 3}),
        ("fast", {"pending": 1, "ca_state": 4, "attempt": 2, "silent_jiffies": 0}),  # an ACK just came
        ("fast", {"pending": 5, "ca_state": 3}),
        ("syn", {"state": "SYN_SENT", "pending": 0, "attempt": 1, "ca_state": 4}),
        ("synack", {"synack": True, "state": "SYN_RECV"}),
        ("fin", {"state": "FIN_WAIT1", "unacked": 0, "pending": 0}),
        ("fin", {"state": "LAST_ACK", "unacked": 0, "pending": 5}),
        ("rto", {"state": "FIN_WAIT1", "unacked": 12, "pending": 0}),  # data before the FIN
    ],
)
def test_retransmit_kind(kind: str, sock: dict[str, object]) -> None:
    ordinary: dict[str, object] = {
        "synack": False, "state": "ESTABLISHED", "ca_state": 0, "pending": 1,
        "attempt": 0, "backoff": 0, "unacked": 38, "silent_jiffies": 2053,
    }  # fmt: skip
    assert retransmit_kind(**{**ordinary, **sock}) == kind  # type: ignore[arg-type]

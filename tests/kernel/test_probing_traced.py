"""`tcpwatch probe` beside a tcpwatch that traces both ends: what each end calls the probe and its answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from listening import Listener
from probe_command import result
from protect_command import be_silent

from tracer.analysis.idle_timeouts import service_of
from tracer.analysis.stalls import StallTracker
from tracer.kernel import host
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Server, embedded_client
from tracer.output.event_line import Columns

THRESHOLD_S = 1.0


@pytest.fixture
def lab() -> Iterator[Lab]:
    """The firewall forgets nothing by itself."""
    with Lab(ttl_s=600) as made:
        yield made


@pytest.mark.parametrize("keepalive", [("--no-keepalive",), ("--idle", "600")])
def test_an_answered_probe_is_not_called_keepalive(lab: Lab, keepalive: tuple[str, ...]) -> None:
    with (
        Server(lab.server, SERVER, 3306),
        Listener(lab, resume_after_s=THRESHOLD_S) as heard,
        embedded_client(lab.client, SERVER, 3306, *keepalive) as client,
    ):
        assert client.ask("query")["ok"]
        be_silent(THRESHOLD_S + 0.5)
        assert result(lab) == "alive: "
        (answered,) = heard.wait_for(client, event="resume", rport=3306)
        (probed,) = heard.wait_for(client, event="resume", lport=3306)
        assert result(lab).startswith("alive: ")
        heard.finish()
        events = heard.of(client)
    assert (answered.cause, probed.cause) == ("answer", "probe")
    lines = [line for event in (answered, probed) for line in Columns(None).lines(event, 0)]
    assert [line.rpartition("(")[2] for line in lines] == ["answered a probe)", "probe of the peer)"]
    assert not [each for each in events if each.event in ("keepalive", "window-probe", "stall")]
    tracker = StallTracker(hz=host.hz(), min_idle_ms=round(1000 * THRESHOLD_S))
    tracker.feed(*events)
    for event in (answered, probed):
        survived_ms = tracker.idle_timeouts.range_of(service_of(event)).survived_ms
        assert survived_ms is not None and survived_ms == event.silent_ms


def test_an_answer_to_a_keepalive_probe_is_still_called_so(lab: Lab) -> None:
    with (
        Server(lab.server, SERVER, 3306),
        Listener(lab, resume_after_s=THRESHOLD_S) as heard,
        embedded_client(lab.client, SERVER, 3306, "--idle", "2", "--interval", "2") as client,
    ):
        answered = heard.wait_for(client, event="resume", rport=3306)[0]
        probed = heard.wait_for(client, event="resume", lport=3306)[0]
    assert (answered.cause, probed.cause) == ("keepalive", "probe")

"""The events of a LiveSource, without the rest of the pipeline."""

from __future__ import annotations

import threading
from typing import Any

from watching import PATIENCE_S

from tracer.kernel.live import LiveSource
from tracer.lab.namespace import wait_until
from tracer.lab.network import Lab
from tracer.lab.peers import Client
from tracer.model.events import Event
from tracer.model.filters import Filter


class Listener:
    """A thread that takes the events of the lab's client and server from a LiveSource."""

    def __init__(self, lab: Lab, **options: Any) -> None:
        self._stop = threading.Event()
        wanted = Filter(netns=frozenset({lab.client.netns, lab.server.netns}))
        self._source = LiveSource(wanted, self._stop.is_set, **options)
        self.attached = self._source.attached
        self._events: list[Event] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        for batch in self._source:
            self._events.extend(batch.events)

    def of(self, client: Client, **fields: Any) -> list[Event]:
        """The events so far of this client's connection, at either end, that have these fields with these values."""
        port = client.connected["lport"]
        return [
            event
            for event in list(self._events)
            if port in (event.lport, event.rport) and all(getattr(event, name) == fields[name] for name in fields)
        ]

    def wait_for(self, client: Client, count: int = 1, **fields: Any) -> list[Event]:
        """Wait until there are that many such events."""
        wait_until(lambda: len(self.of(client, **fields)) >= count, PATIENCE_S, f"{count} events with {fields}")
        return self.of(client, **fields)

    def finish(self) -> None:
        """Take the events that are in the ring buffer, then stop."""
        self._stop.set()
        self._thread.join(PATIENCE_S)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()
        self._source.close()

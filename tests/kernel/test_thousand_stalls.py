"""A thousand connections stall at once: each is told in the JSON, and a person can still read the terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

from watching import PATIENCE_S, ROOT, Start, both_ends

from tracer.lab.namespace import wait_until
from tracer.lab.network import SERVER, Lab
from tracer.lab.peers import Server

COUNT = 1000


def test_a_thousand_stalls_at_once(watch: Start) -> None:
    with Lab(ttl_s=600, retries2=3) as lab, Server(lab.server, SERVER, 3306):
        client = lab.client.popen(
            [sys.executable, Path(__file__).with_name("many.py"), SERVER, "3306", str(COUNT)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert client.stdin is not None and client.stdout is not None and client.stdout.readline() == "ready\n"
            seen = watch("--netns", both_ends(lab), "-e", "stall")
            screen = Terminal("--netns", both_ends(lab))
            lab.drop_everything()
            client.stdin.write("go\n")
            client.stdin.flush()
            assert client.stdout.readline() == "sent\n"
            seen.wait_for(COUNT, phase="begin")
            seen.wait_for(COUNT, phase="end", outcome="timed-out")
            shown = screen.stop()
            # Before the server goes: its FINs get no answer either, which are a thousand stalls more.
            summary = seen.stop()
        finally:
            client.kill()
            client.communicate()
    phases = Counter(each["phase"] for each in seen.events)
    assert phases["begin"] == phases["end"] == COUNT and phases["update"] <= 2 * COUNT
    assert len({each["id"] for each in seen.events}) == COUNT
    assert f"{COUNT:,} stalls: {COUNT:,} timed-out" in summary

    lines = [line for line in shown.splitlines() if line.strip()]
    # Thousands of events in seven seconds are one incident, with a line about it now and then.
    assert len(lines) < 100, "a person can read it"
    assert f"{COUNT:,} × " in shown and "timed out" in shown
    told = [line for line in lines if "Consistent with" in line or "consistent with" in line]
    assert 1 <= len(told) <= 30, "what it means is said, and not a thousand times"


class Terminal:
    """tcpwatch on a terminal of 80 columns."""

    def __init__(self, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tracer", *arguments],
            stdin=subprocess.DEVNULL, stdout=slave, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "80"},
        )  # fmt: skip
        os.close(slave)
        self._said = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._process.stderr is not None and "tracing" in self._process.stderr.readline()

    def _read(self) -> None:
        try:
            while data := os.read(self._master, 65536):
                self._said += data
        except OSError:  # the other side is closed
            pass

    def stop(self) -> str:
        """End it, and return what the screen showed."""
        # Everything that is shown has been shown when nothing is added any more.
        sizes = [-1]
        wait_until(lambda: len(self._said) == sizes[-1] or sizes.append(len(self._said)), PATIENCE_S, "it is quiet")
        self._process.terminate()
        self._process.communicate(timeout=PATIENCE_S)
        self._reader.join(PATIENCE_S)
        os.close(self._master)
        assert self._process.returncode == 0
        return self._said.decode()

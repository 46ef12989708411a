"""What befalls the hosts and the wires of a lab; what its firewall does to packets is in network.py."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

from tracer.lab.namespace import wait_until
from tracer.lab.network import Lab
from tracer.lab.peers import Client, Process, Server
from tracer.model.errors import TcpwatchError

_FORGER = Path(__file__).with_name("forger.py")


def power_off(lab: Lab, server: Server) -> None:
    """The server's host is gone without a word, and nobody tells: as behind a switch, which keeps the link up.

    Start the server with --abort, or its namespace goes on retransmitting its FIN.
    """
    lab.drop_everything()
    server.kill()


def restart(lab: Lab, server: Server, host: str, port: int) -> Server:
    """The server's host goes down without a word and comes up again, not knowing the connections that it had.

    The server must have been started with --abort. Returns the new one.
    """
    power_off(lab, server)
    lab.restore()
    return Server(lab.server, host, port, "--abort")


def cut_cable(lab: Lab) -> None:
    """The firewall loses the link to the server, and sends ICMP host-unreachable.

    It does so once it has asked for the server's link address in vain, for some 3 s (mcast_solicit x retrans_time_ms
    of net.ipv4.neigh). The server loses its routes with its interface, for good.
    """
    lab.server.run("ip", "link", "set", "eth0", "down")


class Forger(Process):
    """A middlebox that sends resets in the name of the other end: see forger.py. Start it before the connection."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(
            lab.firewall.popen([sys.executable, _FORGER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None)
        )
        wait_until(lambda: self._said("ready"), 10, "the forger is there")

    def __enter__(self) -> Forger:
        return self

    def reset(self, client: Client, *, to_client: bool = True, to_server: bool = True, off_by: int = 0) -> None:
        """End this client's connection at one end or both. off_by: what is wrong with the sequence number, bytes.

        An end accepts only what it expects next (RFC 5961), and answers anything else in its window with a
        challenge ACK. Waits until it has acknowledged what went to it.
        """
        for end, wanted in (("client", to_client), ("server", to_server)):
            if wanted:
                command = f"reset {client.connected['lport']} {end} {off_by}\n"
                wait_until(partial(self._sent, command), 10, f"the {end} has acknowledged everything")

    def _sent(self, command: str) -> bool:
        assert self._process.stdin is not None
        self._process.stdin.write(command)
        self._process.stdin.flush()
        return self._said("sent")

    def _said(self, word: str) -> bool:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise TcpwatchError("the forger ended")
        return line == word + "\n"

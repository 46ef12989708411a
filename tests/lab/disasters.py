"""Failures of a lab's hosts and links. Failures of its firewall are methods of Lab (tracer/lab/network.py)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from tracer.lab.namespace import wait_until
from tracer.lab.network import CLIENT, SERVER, Lab
from tracer.lab.peers import Client, Process, Server
from tracer.model.errors import TcpwatchError

_FORGER = Path(__file__).with_name("forger.py")


def power_off(lab: Lab, server: Server) -> None:
    """Power off the server's host. It sends nothing more, and the link stays up, as behind a switch.

    Start the server with --abort, or its namespace goes on retransmitting its FIN.
    """
    lab.drop_everything()
    server.kill()


def restart(lab: Lab, server: Server, host: str, port: int) -> Server:
    """Power off the server's host and start it again, without its connections. Returns the new server.

    The old one must have been started with --abort.
    """
    power_off(lab, server)
    lab.restore()
    return Server(lab.server, host, port, "--abort")


def cut_cable(lab: Lab) -> None:
    """Cut the link between firewall and server. The firewall then sends ICMP host-unreachable.

    It does so after ARP requests for some 3 s (mcast_solicit x retrans_time_ms of net.ipv4.neigh). The server loses
    its routes with its interface, and does not get them back.
    """
    lab.server.run("ip", "link", "set", "eth0", "down")


def forget(lab: Lab, connections: Iterable[tuple[int, int]]) -> None:
    """Have the firewall forget these IPv4 connections of the client (local and remote port), and no other."""
    for lport, rport in connections:
        ends = ("-s", CLIENT, "-d", SERVER, "--sport", str(lport), "--dport", str(rport))
        lab.firewall.run("conntrack", "-D", "-f", "ipv4", "-p", "tcp", *ends)


class Forger(Process):
    """A middlebox that resets connections: see forger.py. Start it before the connections."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(
            lab.firewall.popen([sys.executable, _FORGER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None)
        )
        wait_until(lambda: self._printed("ready"), 10, "the forger is there")

    def __enter__(self) -> Forger:
        return self

    def reset(self, client: Client, *, to_client: bool = True, to_server: bool = True, off_by: int = 0) -> None:
        """Send a RST to one end of this client's connection or to both, once it has acknowledged all data.

        off_by: bytes that are added to the sequence number. An end accepts only the one that it expects next
        (RFC 5961), and answers any other in its window with a challenge ACK.
        """
        for end, wanted in (("client", to_client), ("server", to_server)):
            if wanted:
                command = f"reset {client.connected['lport']} {end} {off_by}\n"
                wait_until(partial(self._sent, command), 10, f"the {end} has acknowledged everything")

    def _sent(self, command: str) -> bool:
        assert self._process.stdin is not None
        self._process.stdin.write(command)
        self._process.stdin.flush()
        return self._printed("sent")

    def _printed(self, word: str) -> bool:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise TcpwatchError("the forger ended")
        return line == word + "\n"

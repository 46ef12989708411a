"""A client, a stateful firewall that forgets idle sessions, and a server: three network namespaces."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from tracer.lab.namespace import Namespace, require_tools
from tracer.model.errors import TcpwatchError

CLIENT, SERVER = "10.66.1.2", "10.66.2.2"
CLIENT6, SERVER6 = "fd66:1::2", "fd66:2::2"

# Packets of a forgotten session are `invalid`; the firewall drops them without a reply.
_RULES = """
table inet lab {{
  counter forgotten {{ }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state invalid counter name forgotten {verdict}
    ct state established,related accept
    ct state new tcp dport {{ {ports} }} {opening} accept
  }}
}}
"""
_SYN = "tcp flags & (fin|syn|rst|ack) == syn"

# What happens to packets whatever their session; one rule at a time. Only to TCP: without neighbour discovery a host
# would get an error within a second. A drop comes before conntrack, so that the session does not see the packet.
_TROUBLE = """
table inet trouble {{
  chain forward {{
    type filter hook {hook}; policy accept;
    iifname {{ {interfaces} }} meta l4proto tcp {what}
  }}
}}
"""
_BEFORE_CONNTRACK = "prerouting priority raw"
_FORWARDING = "forward priority -1"

_MASQUERADE = """
table ip nat {
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "s0" meta l4proto tcp masquerade random
  }
}
"""


class Lab:
    """The three namespaces, connected. A context manager.

    ttl_s: seconds of silence after which the firewall forgets a session. ports: TCP ports that it opens.
    retries2: net.ipv4.tcp_retries2 of the client; 5 gives up after some 13.4 s, the default of 15 after a quarter of
    an hour. Raises TcpwatchError if a tool is missing. Nothing is left behind, even after an error.
    """

    def __init__(self, *, ttl_s: int = 6, ports: Sequence[int] = (3306,), retries2: int = 5) -> None:
        if os.geteuid() != 0:
            raise TcpwatchError("network namespaces need root", hint="run it again with sudo")
        require_tools("unshare", "nsenter", "ip", "nft", "conntrack", "tee")
        self._ports = ", ".join(map(str, ports))
        self._namespaces: list[Namespace] = []
        try:
            for _ in range(3):
                self._namespaces.append(Namespace())
            self.client, self.firewall, self.server = self._namespaces
            self._connect()
            self._set_rules("drop")
            self.firewall.set_sysctl("net.netfilter.nf_conntrack_tcp_timeout_established", ttl_s)
            self.firewall.set_sysctl("net.netfilter.nf_conntrack_tcp_loose", 0)
            self.client.set_sysctl("net.ipv4.tcp_retries2", retries2)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the namespaces. Closing again does nothing."""
        for namespace in self._namespaces:
            namespace.close()

    def _connect(self) -> None:
        for namespace in self._namespaces:
            # Duplicate address detection would take a second, in which a SYN is lost and the RTO becomes 3 s.
            namespace.set_sysctl("net.ipv6.conf.default.accept_dad", 0)
        self.firewall.run(
            "ip", "-batch", "-", stdin=f"""
            link add c0 type veth peer name eth0 netns {self.client.pid}
            link add s0 type veth peer name eth0 netns {self.server.pid}
            address add 10.66.1.1/24 dev c0
            address add 10.66.2.1/24 dev s0
            address add fd66:1::1/64 dev c0 nodad
            address add fd66:2::1/64 dev s0 nodad
            link set c0 up
            link set s0 up
            """,
        )  # fmt: skip
        for namespace, address, address6 in ((self.client, CLIENT, CLIENT6), (self.server, SERVER, SERVER6)):
            namespace.run(
                "ip", "-batch", "-", stdin=f"""
                link set lo up
                address add {address}/24 dev eth0
                address add {address6}/64 dev eth0 nodad
                link set eth0 up
                route add default via {address.rpartition(".")[0]}.1
                route add default via {address6.rpartition(":")[0]}:1
                """,
            )  # fmt: skip
        self.firewall.set_sysctl("net.ipv4.ip_forward", 1)
        self.firewall.set_sysctl("net.ipv6.conf.all.forwarding", 1)

    def _set_rules(self, verdict: str, opening: str = _SYN) -> None:
        self._load("inet lab", _RULES.format(verdict=verdict, ports=self._ports, opening=opening))

    def _load(self, table: str, rules: str = "") -> None:
        self.firewall.run("nft", "-f", "-", stdin=f"add table {table}\ndelete table {table}\n{rules}")

    def _trouble(self, hook: str, what: str, interfaces: Sequence[str] = ("c0", "s0")) -> None:
        self._load("inet trouble", _TROUBLE.format(hook=hook, what=what, interfaces=", ".join(interfaces)))

    def dropped_packets(self) -> int:
        """How many packets of forgotten sessions the firewall has dropped or rejected since its rules were set."""
        shown = json.loads(self.firewall.run("nft", "-j", "list", "counter", "inet", "lab", "forgotten"))
        return next(int(item["counter"]["packets"]) for item in shown["nftables"] if "counter" in item)

    def sessions(self, port: int) -> list[str]:
        """The firewall's sessions to that server port, as `conntrack -L` prints them. This removes expired ones."""
        lines = []
        for family in ("ipv4", "ipv6"):
            listed = self.firewall.run("conntrack", "-L", "-f", family, "-p", "tcp", "--dport", str(port))
            lines += [line for line in listed.splitlines() if f"dport={port} " in line]
        return lines

    def forget_sessions(self) -> None:
        """Forget all sessions at once, as after their timeout or a restart of the firewall."""
        self.firewall.run("conntrack", "-F")

    def reject_with_reset(self) -> None:
        """From now on, answer packets of forgotten sessions with a RST instead of dropping them."""
        self._set_rules("reject with tcp reset")

    def masquerade(self) -> None:
        """From now on, translate the client's address and port to the firewall's address and a random port.

        A forgotten session passes again with another port, as a new one (nf_conntrack_tcp_loose=1, the default).
        """
        self._load("ip nat", _MASQUERADE)
        self._set_rules("drop", opening="")
        self.firewall.set_sysctl("net.netfilter.nf_conntrack_tcp_loose", 1)

    def drop_everything(self, *, to_client: bool = True, to_server: bool = True) -> None:
        """Drop every TCP packet in one direction or both."""
        interfaces = [name for name, cut in (("s0", to_client), ("c0", to_server)) if cut]
        self._trouble(_BEFORE_CONNTRACK, "drop", interfaces)

    def lose(self, percent: int) -> None:
        """Drop this percentage of the TCP packets at random, in each direction."""
        self._trouble(_BEFORE_CONNTRACK, f"numgen random mod 100 < {percent} drop")

    def reject(self, why: str) -> None:
        """Answer every TCP packet with this ICMP error: host-unreachable, port-unreachable or admin-prohibited."""
        self._trouble(_FORWARDING, f"reject with icmpx type {why}")

    def restore(self) -> None:
        """End drop_everything, lose or reject."""
        self._load("inet trouble")

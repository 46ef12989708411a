"""Default idle timeouts of firewalls, NATs and load balancers.

A hint and never more: most of them can be configured, and a timeout that fits does not prove a device.
"""

from __future__ import annotations

from typing import Literal

from tracer.analysis.idle_timeouts import IdleTimeoutRange
from tracer.model.dataclass import dataclass

MAX_MATCHES = 4
MAX_RATIO = 2
"""A range with ends further apart than this fits too many devices to name any."""


@dataclass(frozen=True, slots=True)
class Middlebox:
    """A device that forgets an established TCP session after a silence of timeout_s.

    timeout_s: seconds of silence. at_expiry: what its next packet meets, "silent" (dropped without a word) or
    "reset" (a RST); "unknown" where its maker does not document it, or where it depends. source: where the timeout is
    documented.
    """

    timeout_s: int
    name: str
    at_expiry: Literal["silent", "reset", "unknown"]
    source: str


KNOWN = (
    Middlebox(240, "Azure Load Balancer", "silent", "Microsoft Learn: Load Balancer TCP idle timeout, TCP reset"),
    Middlebox(350, "AWS Network Firewall", "silent", "AWS API reference: Network Firewall FlowTimeouts"),
    Middlebox(350, "AWS NAT gateway", "reset", "AWS networking blog: Implementing long-running TCP connections"),
    Middlebox(350, "AWS NLB", "reset", "AWS: Network Load Balancer, update the TCP idle timeout"),
    Middlebox(350, "AWS VPC endpoint", "silent", "AWS networking blog: Implementing long-running TCP connections"),
    Middlebox(350, "AWS security group, Nitro v6", "silent", "AWS: EC2 security group connection tracking"),
    Middlebox(600, "GCP VPC firewall", "silent", "Google Cloud: VPC firewall rules, connection tracking"),
    # Its packet is no longer translated. The director itself answers a client with a RST if the virtual address is
    # local and no rule drops the packet first; on the way back a client gets a source address that it does not know.
    Middlebox(
        900,
        "Linux IPVS",
        "unknown",
        "Linux: tcp_timeouts and tcp_conn_schedule(), net/netfilter/ipvs/ip_vs_proto_tcp.c; kubernetes#84041",
    ),
    Middlebox(1200, "GCP Cloud NAT", "silent", "Google Cloud: Cloud NAT, TCP established idle timeout"),
    Middlebox(1800, "Juniper SRX", "unknown", "Junos: security sessions, the default for TCP"),
    Middlebox(3600, "FortiGate (default session-ttl)", "silent", "FortiOS CLI reference: config system session-ttl"),
    Middlebox(3600, "Cisco ASA or FTD (timeout conn)", "unknown", "Cisco: Configure timeouts"),
    # It is left to iptables (felix/bpf-gpl/tc.c), where Calico rejects what is for the host with a RST.
    Middlebox(3600, "Calico eBPF", "unknown", "Calico: felix/bpf/conntrack/timeouts, TCPEstablished"),
    Middlebox(7440, "a NAT at RFC 5382's minimum", "unknown", "RFC 5382, REQ-5"),
    # Any packet makes a new entry. A service is then balanced anew, and another backend answers with a RST.
    Middlebox(8000, "Cilium", "unknown", "Cilium: daemon/cmd/daemon_main.go, bpf-ct-timeout-regular-tcp"),
    Middlebox(
        86400,
        "Linux conntrack as kube-proxy sets it",
        "unknown",
        "Kubernetes: pkg/proxy/apis/config/v1alpha1/defaults.go, TCPEstablishedTimeout",
    ),
    Middlebox(432000, "AWS security group", "silent", "AWS: EC2 security group connection tracking"),
    Middlebox(
        432000, "Linux conntrack", "silent", "Linux: nf_conntrack-sysctl, nf_conntrack_tcp_timeout_established"
    ),
)


def matching(idle_timeout: IdleTimeoutRange) -> list[Middlebox]:
    """Middleboxes with a timeout above the longest survived silence and not above the shortest fatal one.

    The nearest to the fatal one first, MAX_MATCHES at most. None unless a survived silence narrows the range to
    MAX_RATIO: every shorter timeout explains a fatal silence as well.
    """
    survived_ms, fatal_ms = idle_timeout.survived_ms, idle_timeout.fatal_ms
    if survived_ms is None or fatal_ms is None or fatal_ms > survived_ms * MAX_RATIO:
        return []
    fitting = [each for each in KNOWN if survived_ms < each.timeout_s * 1000 <= fatal_ms]
    return sorted(fitting, key=lambda each: -each.timeout_s)[:MAX_MATCHES]

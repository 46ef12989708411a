"""Idle timeouts of firewalls, NATs and load balancers as they come from their makers.

A hint and never more: each of them can be set to something else, and a timeout that fits proves no device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tracer.analysis.idle import Bracket

MAX_MATCHES = 4


@dataclass(frozen=True, slots=True)
class Middlebox:
    """What forgets an established TCP session after so much silence.

    timeout_s: seconds of silence. at_expiry: what its next packet meets, "silent" (dropped without a word) or
    "reset" (a RST); "unknown" where its maker does not say. source: where the timeout is documented.
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
    Middlebox(900, "Linux IPVS", "reset", "kubernetes#84041: the default of ipvsadm --set for tcp"),
    Middlebox(1200, "GCP Cloud NAT", "silent", "Google Cloud: Cloud NAT, TCP established idle timeout"),
    Middlebox(1800, "Juniper SRX", "unknown", "Junos: security sessions, the default for TCP"),
    Middlebox(3600, "FortiGate (default session-ttl)", "silent", "FortiOS CLI reference: config system session-ttl"),
    Middlebox(3600, "Cisco ASA or FTD (timeout conn)", "unknown", "Cisco: Configure timeouts"),
    Middlebox(7440, "a NAT at RFC 5382's minimum", "unknown", "RFC 5382, REQ-5"),
    Middlebox(86400, "Linux conntrack as kube-proxy sets it", "silent", "kubernetes#71358: 24 h"),
    Middlebox(432000, "AWS security group", "silent", "AWS: EC2 security group connection tracking"),
    Middlebox(
        432000, "Linux conntrack", "silent", "Linux: nf_conntrack-sysctl, nf_conntrack_tcp_timeout_established"
    ),
)


def matching(bracket: Bracket) -> list[Middlebox]:
    """Whose timeout lies above the longest survived silence and not above the shortest fatal one.

    The nearest to the fatal one first, MAX_MATCHES at most. Where it is not known which silence was survived, a
    timeout of less than half the fatal silence is left out: it would fit anything. None where a longer silence
    was survived than was fatal.
    """
    if bracket.fatal_ms is None:
        return []
    above_ms = bracket.fatal_ms // 2 - 1 if bracket.survived_ms is None else bracket.survived_ms
    fitting = [each for each in KNOWN if above_ms < each.timeout_s * 1000 <= bracket.fatal_ms]
    return sorted(fitting, key=lambda each: -each.timeout_s)[:MAX_MATCHES]

"""One window probe on a connected TCP socket, and what the socket shows of its answer.

setsockopt(TCP_REPAIR, TCP_REPAIR_OFF) on a socket that is not in repair mode makes the kernel send an empty segment
with an old sequence number, which every peer acknowledges at once, as it does a keepalive probe (do_tcp_setsockopt(),
net/ipv4/tcp.c; tcp_send_window_probe(), net/ipv4/tcp_output.c; unchanged from Linux 5.10 to 7.3). No kernel option
leaves it out. It has four effects beside the segment:

* `sk_reuse` becomes 0, so SO_REUSEADDR is written back. Another tcpwatch that probes the same socket may read it in
  between, so it is also read some time before;
* `snd_wl1` becomes one less than the next expected sequence number, so that the next acknowledgement sets the send
  window even to a smaller one, and never counts as a duplicate (tcp_may_update_window(), net/ipv4/tcp_input.c);
* the segment acknowledges what was received: a delayed acknowledgement that is due goes with it
  (tcp_event_ack_sent(), net/ipv4/tcp_output.c);
* with the answer, `rcv_tstamp` starts anew and the number of unanswered probes becomes 0 (tcp_ack(),
  net/ipv4/tcp_input.c), as with every acknowledgement.

It only sends in ESTABLISHED. It needs CAP_NET_ADMIN over the user namespace of the network namespace
(tcp_can_repair_sock(), net/ipv4/tcp.c). A socket of Multipath TCP takes no TCP_REPAIR, even after it fell back to TCP
(mptcp_supported_sockopt(), net/mptcp/sockopt.c). SELinux and BPF programs on the socket's cgroup may refuse it, too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import termios

from tracer.kernel.descriptors import Unreachable
from tracer.model.dataclass import dataclass
from tracer.model.events import STATES

# include/uapi/linux/tcp.h
_TCP_REPAIR = 19
_TCP_REPAIR_OFF = 0
# struct tcp_info: tcpi_state; tcpi_last_ack_recv; tcpi_bytes_acked (4.1); tcpi_segs_out, tcpi_segs_in;
# tcpi_data_segs_in (4.6)
_INFO = struct.Struct("=B55xI60xQ8xII8xI")
_INT = struct.Struct("=i")
_FORCE_REUSE = 2  # SK_FORCE_REUSE, include/net/sock.h
_COUNT = 1 << 32


@dataclass(frozen=True, slots=True)
class Reading:
    """A socket at one moment.

    acked_ms: time since the peer last acknowledged anything, in whole jiffies. bytes_acked: of what was sent so far.
    segments_out: sent so far. empty_in: received so far without data. The counts of segments wrap at 2^32.
    """

    state: str
    acked_ms: int
    bytes_acked: int
    segments_out: int
    empty_in: int

    def has_sent_since(self, before: Reading) -> bool:
        """Whether any segment was sent."""
        return self.segments_out != before.segments_out

    def has_received_since(self, before: Reading) -> bool:
        """Whether a segment without data came in. tcp_disconnect() starts the count anew, which does not count."""
        return 0 < (self.empty_in - before.empty_in) % _COUNT < _COUNT // 2

    def has_delivered_since(self, before: Reading) -> bool:
        """Whether the peer acknowledged data or a FIN."""
        return self.bytes_acked > before.bytes_acked


def read(connection: socket.socket) -> Reading:
    """Read TCP_INFO. Raises OSError."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
    state, acked_ms, bytes_acked, segments_out, segments_in, data_segments_in = _INFO.unpack(info)
    empty_in = (segments_in - data_segments_in) % _COUNT
    return Reading(STATES.get(state, str(state)), acked_ms, bytes_acked, segments_out, empty_in)


def reuses_address(connection: socket.socket) -> bool:
    """Whether SO_REUSEADDR is on. Raises OSError."""
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) != 0


def queued_bytes(connection: socket.socket) -> int:
    """Bytes that are unacknowledged or unsent: SIOCOUTQ (tcp_ioctl(), net/ipv4/tcp.c). Raises OSError."""
    return int(_INT.unpack(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(_INT.size)))[0])


def send(connection: socket.socket, *, reuses: bool) -> None:
    """Send one window probe. Raises Unreachable where the kernel does not, or where the socket is in repair mode.

    reuses: `reuses_address()` of some time ago. It is off for some microseconds while another tcpwatch sends a probe.

    Between the two setsockopt() calls a server that starts on the same port could not bind to it. So nothing may
    interrupt the calling thread between them: call this in a thread that no signal handler runs in.
    """
    try:
        reuse = connection.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        if connection.proto != socket.IPPROTO_TCP:
            raise Unreachable("a socket of Multipath TCP, which takes no TCP_REPAIR")
        is_in_repair = connection.getsockopt(socket.IPPROTO_TCP, _TCP_REPAIR) != 0 or reuse == _FORCE_REUSE
        if is_in_repair:
            raise Unreachable("in repair mode (TCP_REPAIR): a checkpoint is being made or restored")
        before = read(connection)
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _TCP_REPAIR_OFF)  # an error changes nothing
        if reuse or reuses:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        after = read(connection)
    except OSError as error:
        raise Unreachable(_refusal(error)) from None
    if not after.has_sent_since(before):
        raise Unreachable(f"the kernel sends no probe in {after.state}")


def _refusal(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return "TCP_REPAIR is not permitted: CAP_NET_ADMIN over the socket's network namespace is missing"
    return f"TCP_REPAIR is refused, by SELinux or a BPF program: {os.strerror(error.errno or 0)}"

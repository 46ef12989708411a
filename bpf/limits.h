/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The settings and limits in force for a socket: its own, or those of its network namespace. */
#ifndef TCPWATCH_LIMITS_H
#define TCPWATCH_LIMITS_H

#include "kernel.h"
#include "sock_copy.h"

/* Jiffies and a count, as keepalive_time_when(), keepalive_intvl_when() and keepalive_probes() (include/net/tcp.h). */
static __always_inline u32 keepalive_idle(struct sock_copy *s)
{
    u32 own = COPY_READ(tcp_sock, keepalive_time, s->sock);

    return own ? own : COPY_READ(netns_ipv4, sysctl_tcp_keepalive_time, s->netns);
}

static __always_inline u32 keepalive_interval(struct sock_copy *s)
{
    u32 own = COPY_READ(tcp_sock, keepalive_intvl, s->sock);

    return own ? own : COPY_READ(netns_ipv4, sysctl_tcp_keepalive_intvl, s->netns);
}

static __always_inline u32 keepalive_probes(struct sock_copy *s)
{
    u32 own = COPY_READ(tcp_sock, keepalive_probes, s->sock);

    return own ? own : COPY_READ(netns_ipv4, sysctl_tcp_keepalive_probes, s->netns);
}

/* Jiffies: icsk_rto_max (6.15), TCP_RTO_MAX before. */
static __always_inline u32 rto_max(struct sock_copy *s)
{
    u32 own = COPY_READ(inet_connection_sock, icsk_rto_max, s->sock);

    return own ? own : 120 * KERNEL_HZ;
}

/* tcp_orphan_retries(), net/ipv4/tcp_timer.c */
static __always_inline u8 orphan_retries(struct sock_copy *s, bool alive)
{
    u8 retries = COPY_READ(netns_ipv4, sysctl_tcp_orphan_retries, s->netns);

    if (!alive && COPY_READ(sock, sk_err_soft, s->sock))
        retries = 0;
    return retries == 0 && alive ? 8 : retries;
}

/* The number of retransmissions after which the kernel gives up: tcp_write_timeout(), net/ipv4/tcp_timer.c. */
static __always_inline u8 retries_limit(struct sock_copy *s, u8 state, bool orphan)
{
    u8 own;

    if (state == TCP_SYN_SENT || state == TCP_SYN_RECV) {
        own = COPY_READ(inet_connection_sock, icsk_syn_retries, s->sock);
        return own ? own : COPY_READ(netns_ipv4, sysctl_tcp_syn_retries, s->netns);
    }
    if (!orphan)
        return COPY_READ(netns_ipv4, sysctl_tcp_retries2, s->netns);
    return orphan_retries(s, (u32)COPY_READ(inet_connection_sock, icsk_rto, s->sock) < rto_max(s));
}

/* Whether the RTO with backoff is below its maximum: inet_csk_rto_backoff(). */
static __always_inline bool rto_below_max(struct sock_copy *s)
{
    u64 rto = COPY_READ(inet_connection_sock, icsk_rto, s->sock);

    return rto << (COPY_READ(inet_connection_sock, icsk_backoff, s->sock) & 31) < rto_max(s);
}

/* The number of unanswered PROBE0 timers after which the kernel gives up: tcp_probe_timer(). */
static __always_inline u8 probes_limit(struct sock_copy *s, bool orphan)
{
    return orphan ? orphan_retries(s, rto_below_max(s)) : COPY_READ(netns_ipv4, sysctl_tcp_retries2, s->netns);
}

/*
 * Whether tcp_retransmit_timer() does not double the first RTOs, or may not: for an ESTABLISHED connection with fewer
 * than four segments in flight that has left its initial slow start (tcp_stream_is_thin(), include/net/tcp.h). The
 * first RTO ends slow start under most congestion controls; before it, the answer is unknown and this returns true.
 */
#define TCP_INFINITE_SSTHRESH 0x7fffffff
#define TCP_CA_LOSS 4

static __always_inline bool is_thin(struct sock_copy *s, u8 state)
{
    if (!COPY_READ(tcp_sock, thin_lto, s->sock) && !COPY_READ(netns_ipv4, sysctl_tcp_thin_linear_timeouts, s->netns))
        return false;
    if (state != TCP_ESTABLISHED || COPY_READ(tcp_sock, packets_out, s->sock) >= 4)
        return false;
    return COPY_READ(inet_connection_sock, icsk_ca_state, s->sock) != TCP_CA_LOSS ||
           (u32)COPY_READ(tcp_sock, snd_ssthresh, s->sock) < TCP_INFINITE_SSTHRESH;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Fill an event from a copy of a full socket. */
#ifndef TCPWATCH_SOCK_H
#define TCPWATCH_SOCK_H

#include "event.h"
#include "kernel.h"
#include "sock_copy.h"
#include "tuple.h"
#include "limits.h"
#include "durations.h"

static __always_inline u64 socket_inode(u64 socket)
{
    if (socket == 0)
        return 0;
    return CORE_READ(socket_alloc, vfs_inode__i_ino, socket - FIELD_OFFSET(socket_alloc, socket));
}

/* The struct socket that the application holds: for an MPTCP subflow, that of its connection (net/mptcp/protocol.h). */
static __always_inline u64 owning_socket(struct sock_copy *s)
{
    u64 subflow;

    if (!COPY_READ(tcp_sock, is_mptcp, s->sock))
        return COPY_READ(sock, sk_socket, s->sock);
    subflow = COPY_READ(inet_connection_sock, icsk_ulp_data, s->sock);
    return CORE_READ(sock, sk_socket, CORE_READ(mptcp_subflow_context, conn, subflow));
}

/* Bytes of data sent and not acknowledged. SYN and FIN take a sequence number each. */
static __always_inline u32 unacked_bytes(struct sock_copy *s, u8 state)
{
    u32 nxt = COPY_READ(tcp_sock, snd_nxt, s->sock);
    u32 in_flight = nxt - (u32)COPY_READ(tcp_sock, snd_una, s->sock);

    if (in_flight == 0)
        return 0;
    if (state == TCP_SYN_SENT || state == TCP_SYN_RECV)
        return in_flight - 1;
    if (state == TCP_FIN_WAIT1 || state == TCP_CLOSING || state == TCP_LAST_ACK)
        /* The FIN is last in the write queue: it is in flight once snd_nxt has reached write_seq. */
        return nxt == (u32)COPY_READ(tcp_sock, write_seq, s->sock) ? in_flight - 1 : in_flight;
    return in_flight;
}

static __always_inline void fill_sock(struct event *e, struct sock_copy *s)
{
    u8 state = e->state;
    bool orphan = sock_flag(s, ENUM_VALUE(sock_flags, SOCK_DEAD));

    e->flags |= FLAG_FULL_SOCK;
    if (sock_flag(s, ENUM_VALUE(sock_flags, SOCK_KEEPOPEN)))
        e->flags |= FLAG_KEEPALIVE;
    if (COPY_READ(tcp_sock, keepalive_time, s->sock))
        e->flags |= FLAG_OWN_KEEPALIVE_IDLE;
    if (COPY_READ(tcp_sock, is_mptcp, s->sock))
        e->flags |= FLAG_MPTCP;
    if (is_thin(s, state))
        e->flags |= FLAG_THIN;
    e->orphan = orphan;
    e->inode = socket_inode(owning_socket(s));
    e->cgroup = CORE_READ(kernfs_node, id, CORE_READ(cgroup, kn, COPY_READ(sock, sk_cgrp_data__cgroup, s->sock)));
    e->jiffies = bpf_jiffies64();
    e->silent = silence_at(s, e->jiffies);
    e->rto = COPY_READ(inet_connection_sock, icsk_rto, s->sock);
    e->rto_max = rto_max(s);
    e->srtt_us = COPY_READ(tcp_sock, srtt_us, s->sock) >> 3;
    e->unacked = unacked_bytes(s, state);
    e->unsent = (u32)COPY_READ(tcp_sock, write_seq, s->sock) - (u32)COPY_READ(tcp_sock, snd_nxt, s->sock);
    e->snd_wnd = COPY_READ(tcp_sock, snd_wnd, s->sock);
    e->retrying_ms = retrying_ms(s);
    e->stuck_ms = stuck_ms(s, state, e->jiffies);
    e->retries = retries_limit(s, state, orphan);
    if (state == TCP_SYN_SENT)
        e->syn_linear = COPY_READ(netns_ipv4, sysctl_tcp_syn_linear_timeouts, s->netns);
    e->keepalive_idle = keepalive_idle(s);
    e->keepalive_interval = keepalive_interval(s);
    e->keepalive_probes = keepalive_probes(s);
    e->user_timeout_ms = COPY_READ(inet_connection_sock, icsk_user_timeout, s->sock);
    e->error = COPY_READ(sock, sk_err, s->sock);
    e->soft_error = COPY_READ(sock, sk_err_soft, s->sock);
    e->attempt = COPY_READ(inet_connection_sock, icsk_retransmits, s->sock);
    e->probes_out = COPY_READ(inet_connection_sock, icsk_probes_out, s->sock);
    e->ca_state = COPY_READ(inet_connection_sock, icsk_ca_state, s->sock);
    e->backoff = COPY_READ(inet_connection_sock, icsk_backoff, s->sock);
    e->pending = COPY_READ(inet_connection_sock, icsk_pending, s->sock);
}

#endif

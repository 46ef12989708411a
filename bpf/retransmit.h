/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Retransmissions: of data, SYN, FIN and SYN/ACK. */
#ifndef TCPWATCH_RETRANSMIT_H
#define TCPWATCH_RETRANSMIT_H

#include "submit.h"

#define EAGAIN 11 /* include/uapi/asm-generic/errno-base.h */

/*
 * Whether a failed retransmission reached __tcp_transmit_skb(), which stamps the segment with the current time.
 * __tcp_retransmit_skb() may fail earlier: no route, no room in the window, no memory. The kernel does not count that.
 */
static __always_inline bool was_attempted(u64 sk, u64 skb)
{
    return CORE_READ(sk_buff, skb_mstamp_ns, skb) >= CORE_READ(tcp_sock, tcp_clock_cache, sk);
}

/*
 * A tail loss probe is sent once its timer has expired. A retransmission while the timer is still armed is not one:
 * tcp_rcv_fastopen_synack() resends data of the SYN that the SYN/ACK did not acknowledge, before it enters loss.
 */
static __always_inline bool has_write_timer_expired(u64 sk)
{
    u32 expires = FIELD_EXISTS(sock, tcp_retransmit_timer)
                      ? CORE_READ(sock, tcp_retransmit_timer__expires, sk)
                      : CORE_READ(inet_connection_sock, icsk_retransmit_timer__expires, sk);

    return (s32)(expires - (u32)bpf_jiffies64()) <= 0;
}

/* Every kind of retransmission: __tcp_retransmit_skb(), net/ipv4/tcp_output.c. */
int on_tcp_retransmit_skb(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    struct tuple t = {};
    struct event *e;

#if TRACEPOINT_ARGS(tcp_retransmit_skb) > 2
    /* Nothing was sent: a fast retransmission found no room in the window. */
    if ((s32)ctx->args[2] == -EAGAIN)
        return 0;
#endif
    if (!tuple_of_sock(sk, &t, false))
        return 0;
    e = reserve_event(EVENT_RETRANSMIT, HOOK_RETRANSMIT, &t);
    if (!e)
        return 0;
    fill_event(e, sk, HOOK_RETRANSMIT);
    record_retransmits(sk, e->attempt);
    e->segments = CORE_READ(tcp_skb_cb, tcp_gso_segs, ctx->args[1] + FIELD_OFFSET(sk_buff, cb));
    if (e->pending == TIMER_LOSS_PROBE && !has_write_timer_expired(sk))
        e->pending = TIMER_RETRANSMIT;
    e->error = 0;
#if TRACEPOINT_ARGS(tcp_retransmit_skb) > 2
    e->error = -(s32)ctx->args[2];
    if (e->error != 0 && !was_attempted(sk, ctx->args[1]))
        e->segments = 0;
#endif
    submit(e);
    return 0;
}

/*
 * Whether the timer caused the SYN/ACK, and not another SYN of the client (tcp_check_req()). While its handler runs,
 * the timer of a request is not pending (reqsk_timer_handler()), and with TCP Fast Open tcp_write_timer_handler() has
 * cleared icsk_pending of the child.
 */
static __always_inline bool is_by_timer(u64 sk, u64 req, bool fast_open)
{
    return fast_open ? CORE_READ(inet_connection_sock, icsk_pending, sk) == 0
                     : CORE_READ(request_sock, rsk_timer__entry__pprev, req) == 0;
}

/*
 * A retransmitted SYN/ACK: tcp_rtx_synack(). sk is the listener, which has the owner; the connection is only a request.
 * With TCP Fast Open sk is the connection itself.
 */
int on_tcp_retransmit_synack(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    u64 req = ctx->args[1];
    bool fast_open = CORE_READ(sock_common, skc_state, sk) != TCP_LISTEN;
    struct tuple t = {};
    struct event *e;

    if (!tuple_of_sock(req, &t, false))
        return 0;
    e = reserve_event(EVENT_RETRANSMIT, HOOK_SYNACK, &t);
    if (!e)
        return 0;
    e->flags = FLAG_SYNACK;
    e->state = TCP_SYN_RECV;
    if (fast_open) {
        e->sk = sk;
        fill_origin(e, sk);
    } else {
        e->sk = req;
        e->born = CORE_READ(tcp_request_sock, snt_isn, req);
    }
    e->inode = socket_inode(CORE_READ(sock, sk_socket, sk));
    e->cgroup = CORE_READ(kernfs_node, id, CORE_READ(cgroup, kn, CORE_READ(sock, sk_cgrp_data__cgroup, sk)));
    e->attempt = is_by_timer(sk, req, fast_open) ? CORE_READ(request_sock, num_timeout, req) + 1 : 0;
    e->segments = 1;
    submit(e);
    return 0;
}

#endif

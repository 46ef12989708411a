/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What was sent and not acknowledged is sent again. */
#ifndef TCPWATCH_RETRANSMIT_H
#define TCPWATCH_RETRANSMIT_H

#include "submit.h"

#define EAGAIN 11 /* include/uapi/asm-generic/errno-base.h */

/*
 * Whether a segment got as far as the transmission, which stamps it with the present time at the earliest
 * (__tcp_transmit_skb()). Before that __tcp_retransmit_skb() may find no route, a window that is too small or no
 * memory, and then does not count it.
 */
static __always_inline bool was_attempted(u64 sk, u64 skb)
{
    return READ(sk_buff, skb_mstamp_ns, skb) >= READ(tcp_sock, tcp_clock_cache, sk);
}

/*
 * A tail loss probe is sent when its timer has expired. What goes out while that is armed for later is something else:
 * data of a SYN with Fast Open that the SYN/ACK has left out (tcp_rcv_fastopen_synack() before it enters loss).
 */
static __always_inline bool has_write_timer_expired(u64 sk)
{
    u32 expires = HAS(sock, tcp_retransmit_timer) ? READ(sock, tcp_retransmit_timer__expires, sk)
                                                  : READ(inet_connection_sock, icsk_retransmit_timer__expires, sk);

    return (s32)(expires - (u32)bpf_jiffies64()) <= 0;
}

/* A retransmission, whatever its kind: __tcp_retransmit_skb(), net/ipv4/tcp_output.c. */
int on_tcp_retransmit_skb(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    struct tuple t = {};
    struct event *e;

#if ARGS(tcp_retransmit_skb) > 2
    /* Nothing had to be sent: the window that a fast retransmission needs is not there. */
    if ((s32)ctx->args[2] == -EAGAIN)
        return 0;
#endif
    if (!tuple_of_sock(sk, &t, false))
        return 0;
    e = new_event(EVENT_RETRANSMIT, HOOK_RETRANSMIT, &t);
    if (!e)
        return 0;
    describe(e, sk, HOOK_RETRANSMIT);
    remember_retransmissions(sk, e->attempt);
    e->segments = READ(tcp_skb_cb, tcp_gso_segs, ctx->args[1] + OFFSET(sk_buff, cb));
    if (e->pending == TIMER_LOSS_PROBE && !has_write_timer_expired(sk))
        e->pending = TIMER_RETRANSMIT;
    e->error = 0;
#if ARGS(tcp_retransmit_skb) > 2
    e->error = -(s32)ctx->args[2];
    if (e->error != 0 && !was_attempted(sk, ctx->args[1]))
        e->segments = 0;
#endif
    submit(e);
    return 0;
}

/*
 * Whether it is the timer that sends a SYN/ACK again, and not another SYN of the client's (tcp_check_req()). The timer
 * of a request is not pending while it is served (reqsk_timer_handler()). With Fast Open it is that of the child, which
 * tcp_write_timer_handler() has marked as served.
 */
static __always_inline bool is_by_timer(u64 sk, u64 req, bool fast_open)
{
    return fast_open ? READ(inet_connection_sock, icsk_pending, sk) == 0
                     : READ(request_sock, rsk_timer__entry__pprev, req) == 0;
}

/*
 * A SYN/ACK again: tcp_rtx_synack(). The connection exists as a request only; the listener tells whose it is. With Fast
 * Open there is the connection, beside the request.
 */
int on_tcp_retransmit_synack(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    u64 req = ctx->args[1];
    bool fast_open = READ(sock_common, skc_state, sk) != TCP_LISTEN;
    struct tuple t = {};
    struct event *e;

    if (!tuple_of_sock(req, &t, false))
        return 0;
    e = new_event(EVENT_RETRANSMIT, HOOK_SYNACK, &t);
    if (!e)
        return 0;
    e->flags = SYNACK;
    e->state = TCP_SYN_RECV;
    if (fast_open) {
        e->sk = sk;
        fill_birth(e, sk);
    } else {
        e->sk = req;
        e->born = READ(tcp_request_sock, snt_isn, req);
    }
    e->inode = socket_inode(READ(sock, sk_socket, sk));
    e->cgroup = READ(kernfs_node, id, READ(cgroup, kn, READ(sock, sk_cgrp_data__cgroup, sk)));
    e->attempt = is_by_timer(sk, req, fast_open) ? READ(request_sock, num_timeout, req) + 1 : 0;
    e->segments = 1;
    submit(e);
    return 0;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Resets: received, sent, refused. */
#ifndef TCPWATCH_RESET_H
#define TCPWATCH_RESET_H

#include "submit.h"

/* A received reset that ends the connection: tcp_reset(), net/ipv4/tcp_input.c. */
int on_tcp_receive_reset(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    struct tuple t = {};
    struct event *e;

    if (!tuple_of_sock(sk, &t, false))
        return 0;
    e = reserve_event(EVENT_RESET, HOOK_RESET_RECEIVED, &t);
    if (!e)
        return 0;
    fill_event(e, sk, HOOK_RESET_RECEIVED);
    e->direction = RESET_RECEIVED;
    submit(e);
    return 0;
}

/*
 * A reset from this host. tcp_send_active_reset() has a socket. tcp_v4_send_reset() and tcp_v6_send_reset() answer a
 * packet: sk may be 0, a request socket or a time-wait socket.
 */
int on_tcp_send_reset(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    u64 skb = ctx->args[1];
    struct tuple t = {};
    struct event *e;
    u64 net = 0;

    /* For a listener the packet has the addresses, but no longer its device (tcp_v4_rcv()): take the namespace here. */
    if (sk != 0 && CORE_READ(sock_common, skc_state, sk) == TCP_LISTEN) {
        net = CORE_READ(sock_common, skc_net__net, sk);
        sk = 0;
    }
    if (sk != 0) {
        if (!tuple_of_sock(sk, &t, false))
            return 0;
    } else if (skb == 0 || !tuple_of_packet(skb, net, &t)) {
        return 0;
    }
    e = reserve_event(EVENT_RESET, HOOK_RESET_SENT, &t);
    if (!e)
        return 0;
    if (sk != 0)
        fill_event(e, sk, HOOK_RESET_SENT);
    e->direction = RESET_SENT;
#if TRACEPOINT_ARGS(tcp_send_reset) > 2
    e->reason = ctx->args[2];
    e->flags |= FLAG_HAS_REASON;
#endif
    submit(e);
    return 0;
}

#if TRACEPOINT_ARGS(kfree_skb) > 3
/*
 * A received reset that the socket ignores: inside the window but not at rcv_nxt, answered with a challenge ACK
 * (RFC 5961, tcp_validate_incoming()). Accepted ones do not reach this tracepoint. Every other dropped packet costs
 * one comparison. The socket (rx_sk) is an argument since 6.11.
 */
int on_kfree_skb(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk;
    struct tuple t = {};
    struct event *e;

    if ((u32)ctx->args[2] != ENUM_VALUE(skb_drop_reason, SKB_DROP_REASON_TCP_RESET))
        return 0;
    sk = ctx->args[3];
    if (sk == 0 || CORE_READ(sock_common, skc_state, sk) == TCP_LISTEN || !tuple_of_sock(sk, &t, false))
        return 0;
    e = reserve_event(EVENT_RESET, HOOK_RESET_REFUSED, &t);
    if (!e)
        return 0;
    fill_event(e, sk, HOOK_RESET_REFUSED);
    e->direction = RESET_REFUSED;
    submit(e);
    return 0;
}
#endif

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Resets: accepted, sent, refused. */
#ifndef TCPWATCH_RESET_H
#define TCPWATCH_RESET_H

#include "submit.h"

/* A reset that was accepted: tcp_reset(), net/ipv4/tcp_input.c. */
int on_tcp_receive_reset(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    struct tuple t = {};
    struct event *e;

    if (!tuple_of_sock(sk, &t, false))
        return 0;
    e = new_event(EVENT_RESET, HOOK_RESET_RECEIVED, &t);
    if (!e)
        return 0;
    describe(e, sk, HOOK_RESET_RECEIVED);
    e->direction = RESET_RECEIVED;
    submit(e);
    return 0;
}

/*
 * A reset that we send: tcp_send_active_reset() with a socket, tcp_v4_send_reset() and its IPv6 twin in answer to a
 * packet, perhaps without any socket or with a mere request or time-wait one.
 */
int on_tcp_send_reset(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    u64 skb = ctx->args[1];
    struct tuple t = {};
    struct event *e;
    u64 net = 0;

    /* A listener is no end of a connection: the packet says who is refused, but not any more where (tcp_v4_rcv()). */
    if (sk != 0 && READ(sock_common, skc_state, sk) == TCP_LISTEN) {
        net = READ(sock_common, skc_net__net, sk);
        sk = 0;
    }
    if (sk != 0) {
        if (!tuple_of_sock(sk, &t, false))
            return 0;
    } else if (skb == 0 || !tuple_of_packet(skb, net, &t)) {
        return 0;
    }
    e = new_event(EVENT_RESET, HOOK_RESET_SENT, &t);
    if (!e)
        return 0;
    if (sk != 0)
        describe(e, sk, HOOK_RESET_SENT);
    e->direction = RESET_SENT;
#if ARGS(tcp_send_reset) > 2
    e->reason = ctx->args[2];
    e->flags |= HAS_REASON;
#endif
    submit(e);
    return 0;
}

#if ARGS(kfree_skb) > 3
/*
 * A reset that the socket refused: in its window but not exactly at rcv_nxt, answered with a challenge ACK (RFC 5961,
 * tcp_validate_incoming()). The accepted ones are freed without a trace. The reason is in a register, so every
 * other dropped packet costs one comparison; the socket (rx_sk) is there since 6.11.
 */
int on_kfree_skb(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk;
    struct tuple t = {};
    struct event *e;

    if ((u32)ctx->args[2] != ENUM(skb_drop_reason, SKB_DROP_REASON_TCP_RESET))
        return 0;
    sk = ctx->args[3];
    if (sk == 0 || READ(sock_common, skc_state, sk) == TCP_LISTEN || !tuple_of_sock(sk, &t, false))
        return 0;
    e = new_event(EVENT_RESET, HOOK_RESET_REFUSED, &t);
    if (!e)
        return 0;
    describe(e, sk, HOOK_RESET_REFUSED);
    e->direction = RESET_REFUSED;
    submit(e);
    return 0;
}
#endif

#endif

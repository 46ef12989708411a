/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What was sent and not acknowledged is sent again. */
#ifndef TCPWATCH_RETRANSMIT_H
#define TCPWATCH_RETRANSMIT_H

#include "submit.h"

/* A retransmission, whatever its kind: __tcp_retransmit_skb(), net/ipv4/tcp_output.c. */
int on_tcp_retransmit_skb(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    struct tuple t = {};
    struct event *e;

    if (!tuple_of_sock(sk, &t, false))
        return 0;
    e = new_event(EVENT_RETRANSMIT, HOOK_RETRANSMIT, &t);
    if (!e)
        return 0;
    describe(e, sk, HOOK_RETRANSMIT);
    e->segments = READ(tcp_skb_cb, tcp_gso_segs, ctx->args[1] + OFFSET(sk_buff, cb));
    e->error = 0;
#if ARGS(tcp_retransmit_skb) > 2
    e->error = -(s32)ctx->args[2];
#endif
    submit(e);
    return 0;
}

/* A SYN/ACK again: tcp_rtx_synack(). The connection exists as a request only; the listener tells whose it is. */
int on_tcp_retransmit_synack(struct bpf_raw_tracepoint_args *ctx)
{
    u64 listener = ctx->args[0];
    u64 req = ctx->args[1];
    struct tuple t = {};
    struct event *e;

    if (!tuple_of_sock(req, &t, false))
        return 0;
    e = new_event(EVENT_RETRANSMIT, HOOK_SYNACK, &t);
    if (!e)
        return 0;
    e->flags = SYNACK;
    e->sk = req;
    e->born = READ(tcp_request_sock, snt_isn, req);
    e->state = TCP_SYN_RECV;
    e->inode = socket_inode(READ(sock, sk_socket, listener));
    e->cgroup = READ(kernfs_node, id, READ(cgroup, kn, READ(sock, sk_cgrp_data__cgroup, listener)));
    e->attempt = READ(request_sock, num_retrans, req) + 1;
    e->segments = 1;
    submit(e);
    return 0;
}

#endif

// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Every TCP connection of one network namespace, as it is now: an iterator (BPF_TRACE_ITER, bpf_iter__tcp, 5.9) that
 * writes a struct event a socket, and who holds it (holder.h). Reading an iterator runs it; nothing is attached to
 * anything.
 */
#include "event.h"
#include "kernel.h"
#include "filter.h"
#include "sock.h"
#include "exchange.h"
#include "timer.h"
#include "iterator.h"
#include "holder.h"

/* net/ipv4/tcp_ipv4.c, each member 8 bytes wide. */
struct bpf_iter__tcp {
    struct bpf_iter_meta *meta;
    void *sk_common;
    u64 uid;
};

BPF_PERCPU_ARRAY(scratch, struct event, 1);

/* How often what the timer is armed for has been tried, as `ss -o` counts. */
static __always_inline u16 attempts(struct event *e, struct sock_copy *s)
{
    if (e->timer == TIMER_NONE)
        return 0;
    if (e->timer == TIMER_PROBE0 || e->timer == TIMER_KEEPALIVE)
        return COPIED(inet_connection_sock, icsk_probes_out, s->sock);
    return COPIED(inet_connection_sock, icsk_retransmits, s->sock);
}

int bpf_iter__tcp(struct bpf_iter__tcp *ctx)
{
    void *seq = ctx->meta->seq;
    u64 sk = (u64)ctx->sk_common;
    int zero = 0;
    struct event *e = scratch.lookup(&zero);
    struct tuple t = {};
    struct sock_copy *s;

    if (sk == 0 || !e || !tuple_of_sock(sk, &t, false))
        return 0;
    if (!is_full_sock(t.state) || t.state == TCP_LISTEN || t.state == TCP_CLOSE)
        return 0;
    s = copy_sock(sk, COPY_OF_WALK);
    if (!s)
        return 0;
    __builtin_memset(e, 0, sizeof(*e));
    e->type = EVENT_SOCKET;
    e->ktime_ns = bpf_ktime_get_boot_ns();
    e->sk = sk;
    fill_tuple(e, &t);
    fill_sock(e, s);
    fill_exchange(e, s);
    fill_timer(e, s);
    e->attempt = attempts(e, s);
    give_back(s);
    bpf_seq_write(seq, e, sizeof(*e));
    return 0;
}

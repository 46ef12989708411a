// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Every TCP connection as it is now, a struct event each. bpf_iter__tcp (BPF_TRACE_ITER, 5.9) has those of one network
 * namespace, and report_held_socket those of all namespaces that a process holds. holder.h says who that is. Reading an
 * iterator runs it; nothing is attached to anything.
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

static __always_inline void report_socket(void *seq, struct event *e, u64 sk, struct tuple *t)
{
    struct sock_copy *s = copy_sock(sk, COPY_OF_WALK);

    if (!s)
        return;
    __builtin_memset(e, 0, sizeof(*e));
    e->type = EVENT_SOCKET;
    e->ktime_ns = bpf_ktime_get_boot_ns();
    e->sk = sk;
    fill_tuple(e, t);
    fill_sock(e, s);
    fill_exchange(e, s);
    fill_timer(e, s);
    e->attempt = attempts(e, s);
    give_back(s);
    bpf_seq_write(seq, e, sizeof(*e));
}

int bpf_iter__tcp(struct bpf_iter__tcp *ctx)
{
    u64 sk = (u64)ctx->sk_common;
    int zero = 0;
    struct event *e = scratch.lookup(&zero);
    struct tuple t = {};

    if (sk == 0 || !e || !tuple_of_sock(sk, &t, false))
        return 0;
    if (is_full_sock(t.state) && t.state != TCP_LISTEN && t.state != TCP_CLOSE)
        report_socket(ctx->meta->seq, e, sk, &t);
    return 0;
}

/*
 * Once for each open file. A listener, or a connection that nobody wants, has its address and its namespace only: the
 * kernel counts it among the sockets of the namespace (tracer/kernel/sockets.py).
 */
int report_held_socket(struct bpf_iter__task_file *ctx)
{
    const u8 *file = ctx->file;
    int zero = 0;
    struct event *e = scratch.lookup(&zero);
    struct tuple t = {};
    u64 sk;
    u8 state;

    if (!file || !ctx->task || !e)
        return 0;
    sk = tcp_socket_of(file);
    if (sk == 0)
        return 0;
    state = READ(sock_common, skc_state, sk);
    if (state == TCP_CLOSE)
        return 0;
    if (state != TCP_LISTEN && tuple_of_sock(sk, &t, false)) {
        report_socket(ctx->meta->seq, e, sk, &t);
        return 0;
    }
    __builtin_memset(e, 0, sizeof(*e));
    e->sk = sk;
    e->netns = netns_inode(READ(sock_common, skc_net__net, sk));
    bpf_seq_write(ctx->meta->seq, e, sizeof(*e));
    return 0;
}

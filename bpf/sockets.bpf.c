// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The current state of every TCP connection, as struct event, for `tcpwatch sockets` (tracer/kernel/sockets.py).
 *
 * bpf_iter__tcp (BPF_TRACE_ITER, 5.9) has the connections of one network namespace. report_held_socket has those of all
 * namespaces, if a process holds them. holder.h finds the processes. Reading an iterator runs it; no hook is attached.
 */
#include "event.h"
#include "kernel.h"
#include "filter.h"
#include "sock.h"
#include "request.h"
#include "timer.h"
#include "trouble.h"
#include "iterator.h"
#include "holder.h"

/* net/ipv4/tcp_ipv4.c; each member is 8 bytes wide. */
struct bpf_iter__tcp {
    struct bpf_iter_meta *meta;
    void *sk_common;
    u64 uid;
};

BPF_PERCPU_ARRAY(scratch, struct event, 1);

/* The attempts that `ss -o` shows for the armed timer. */
static __always_inline u16 attempts(struct event *e, struct sock_copy *s)
{
    if (e->timer == TIMER_NONE)
        return 0;
    if (e->timer == TIMER_PROBE0 || e->timer == TIMER_KEEPALIVE)
        return COPY_READ(inet_connection_sock, icsk_probes_out, s->sock);
    return COPY_READ(inet_connection_sock, icsk_retransmits, s->sock);
}

/*
 * Writes EVENT_SOCKET, and after it EVENT_FOUND for a socket in trouble, as the walk of the tracer does (walk.h): its
 * timer_in and its limits tell when the kernel gives up.
 */
static __always_inline void report_socket(void *seq, struct event *e, u64 sk, struct tuple *t)
{
    struct sock_copy *s = get_sock_copy(sk, SLOT_WALK);
    bool is_in_trouble;
    u16 retransmits;

    if (!s)
        return;
    __builtin_memset(e, 0, sizeof(*e));
    e->type = EVENT_SOCKET;
    e->ktime_ns = bpf_ktime_get_boot_ns();
    e->sk = sk;
    fill_tuple(e, t);
    fill_sock(e, s);
    fill_request(e, s);
    if (e->flags & FLAG_AWAITS_RESPONSE && has_waiter(s))
        e->flags |= FLAG_HAS_WAITER;
    fill_timer(e, s);
    retransmits = e->attempt;
    e->attempt = attempts(e, s);
    bpf_seq_write(seq, e, sizeof(*e));
    e->attempt = retransmits;
    is_in_trouble = fill_trouble(e, s);
    put_sock_copy(s);
    if (is_in_trouble)
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
 * Runs for each open file. A listener, or a connection that the filters reject, is written with its address and network
 * namespace only. sockets.py compares the number of sockets in a namespace with the kernel's own count.
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
    state = CORE_READ(sock_common, skc_state, sk);
    if (state == TCP_CLOSE)
        return 0;
    if (state != TCP_LISTEN && tuple_of_sock(sk, &t, false)) {
        report_socket(ctx->meta->seq, e, sk, &t);
        return 0;
    }
    __builtin_memset(e, 0, sizeof(*e));
    e->sk = sk;
    e->netns = netns_inode(CORE_READ(sock_common, skc_net__net, sk));
    bpf_seq_write(ctx->meta->seq, e, sizeof(*e));
    return 0;
}

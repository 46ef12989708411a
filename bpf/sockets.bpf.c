// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Every TCP connection of one network namespace, as it is now: an iterator (BPF_TRACE_ITER, bpf_iter__tcp, 5.9) that
 * writes a struct event a socket. Reading the iterator runs it; nothing is attached to anything.
 */
#include "event.h"
#include "kernel.h"
#include "filter.h"
#include "sock.h"

/* include/linux/bpf.h and net/ipv4/tcp_ipv4.c, each member 8 bytes wide. */
struct bpf_iter_meta {
    void *seq;
    u64 session_id;
    u64 seq_num;
};

struct bpf_iter__tcp {
    struct bpf_iter_meta *meta;
    void *sk_common;
    u64 uid;
};

BPF_PERCPU_ARRAY(scratch, struct event, 1);

/* The timer that `ss -o` would show, chosen as in inet_sk_diag_fill() (net/ipv4/inet_diag.c). */
static __always_inline void fill_timer(struct event *e, struct sock_copy *s)
{
    u64 expires = 0;

    if (e->pending == TIMER_RETRANSMIT || e->pending == TIMER_PROBE0 || e->pending == TIMER_LOSS_PROBE ||
        e->pending == TIMER_REORDERING) {
        e->timer = e->pending;
        if (e->pending == TIMER_PROBE0)
            e->attempt = COPIED(inet_connection_sock, icsk_probes_out, s->sock);
        if (HAS(sock, tcp_retransmit_timer))
            expires = COPIED(sock, tcp_retransmit_timer__expires, s->sock);
        else
            expires = COPIED(inet_connection_sock, icsk_retransmit_timer__expires, s->sock);
    } else {
        u64 pending = HAS(inet_connection_sock, icsk_keepalive_timer)
                          ? COPIED(inet_connection_sock, icsk_keepalive_timer__entry__pprev, s->sock)
                          : COPIED(sock, sk_timer__entry__pprev, s->sock);

        e->attempt = 0;
        if (pending == 0)
            return;
        e->timer = TIMER_KEEPALIVE;
        e->attempt = COPIED(inet_connection_sock, icsk_probes_out, s->sock);
        if (HAS(inet_connection_sock, icsk_keepalive_timer))
            expires = COPIED(inet_connection_sock, icsk_keepalive_timer__expires, s->sock);
        else
            expires = COPIED(sock, sk_timer__expires, s->sock);
    }
    if ((s32)((u32)expires - e->jiffies) > 0)
        e->timer_in = (u32)expires - e->jiffies;
}

/* What FIONREAD would say but for urgent data: tcp_inq(), include/net/tcp.h. The FIN takes a sequence number. */
static __always_inline u32 unread_bytes(struct sock_copy *s)
{
    u32 unread = (u32)COPIED(tcp_sock, rcv_nxt, s->sock) - (u32)COPIED(tcp_sock, copied_seq, s->sock);

    return unread && sock_flag(s, ENUM(sock_flags, SOCK_DONE)) ? unread - 1 : unread;
}

/*
 * Whether the last data went out after the last data came in. Both stamps are set when the connection is made, maybe a
 * jiffy apart, and mean nothing before data is sent. A quick peer's answer comes within the jiffy, as does the next
 * question after an answer. Then the order is told by snd_wl1, the sequence number of the segment that last moved the
 * window (tcp_ack_update_window(), net/ipv4/tcp_input.c): that of data is older than rcv_nxt, that of the bare ACK of
 * what we sent is rcv_nxt. A bare ACK long after says nothing: it answered a keepalive probe.
 */
static __always_inline bool sent_last(struct event *e, struct sock_copy *s)
{
    if (COPIED(tcp_sock, data_segs_out, s->sock) == 0 || e->since_sent == UNKNOWN || e->since_data == UNKNOWN)
        return false;
    if (e->since_sent != e->since_data)
        return e->since_sent < e->since_data;
    return (u32)COPIED(tcp_sock, snd_wl1, s->sock) == (u32)COPIED(tcp_sock, rcv_nxt, s->sock) &&
           e->since_sent - e->silent <= KERNEL_HZ;
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
    s = copy_sock(sk, zero);
    if (!s)
        return 0;
    __builtin_memset(e, 0, sizeof(*e));
    e->type = EVENT_SOCKET;
    e->ktime_ns = bpf_ktime_get_boot_ns();
    e->sk = sk;
    fill_tuple(e, &t);
    fill_sock(e, s);
    e->since_sent = jiffies_since(e->jiffies, COPIED(tcp_sock, lsndtime, s->sock));
    e->since_data = jiffies_since(e->jiffies, COPIED(inet_connection_sock, icsk_ack__lrcvtime, s->sock));
    e->unread = unread_bytes(s);
    /* sk_clone_lock() copies what listen() set; connect() leaves it 0. */
    if (COPIED(sock, sk_max_ack_backlog, s->sock))
        e->flags |= ACCEPTED;
    if (e->unacked == 0 && e->unsent == 0 && e->unread == 0 && sent_last(e, s))
        e->flags |= AWAITS;
    fill_timer(e, s);
    give_back(s);
    bpf_seq_write(seq, e, sizeof(*e));
    return 0;
}

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
static __always_inline void fill_timer(struct event *e, u64 sk)
{
    u64 expires = 0;

    if (e->pending == TIMER_RETRANSMIT || e->pending == TIMER_PROBE0 || e->pending == TIMER_LOSS_PROBE ||
        e->pending == TIMER_REORDERING) {
        e->timer = e->pending;
        if (e->pending == TIMER_PROBE0)
            e->attempt = READ(inet_connection_sock, icsk_probes_out, sk);
        if (HAS(sock, tcp_retransmit_timer))
            expires = READ(sock, tcp_retransmit_timer__expires, sk);
        else
            expires = READ(inet_connection_sock, icsk_retransmit_timer__expires, sk);
    } else {
        u64 pending = HAS(inet_connection_sock, icsk_keepalive_timer)
                          ? READ(inet_connection_sock, icsk_keepalive_timer__entry__pprev, sk)
                          : READ(sock, sk_timer__entry__pprev, sk);

        e->attempt = 0;
        if (pending == 0)
            return;
        e->timer = TIMER_KEEPALIVE;
        e->attempt = READ(inet_connection_sock, icsk_probes_out, sk);
        if (HAS(inet_connection_sock, icsk_keepalive_timer))
            expires = READ(inet_connection_sock, icsk_keepalive_timer__expires, sk);
        else
            expires = READ(sock, sk_timer__expires, sk);
    }
    if ((s32)((u32)expires - e->jiffies) > 0)
        e->timer_in = (u32)expires - e->jiffies;
}

/* What FIONREAD would say but for urgent data: tcp_inq(), include/net/tcp.h. The FIN takes a sequence number. */
static __always_inline u32 unread_bytes(u64 sk)
{
    u32 unread = (u32)READ(tcp_sock, rcv_nxt, sk) - (u32)READ(tcp_sock, copied_seq, sk);

    return unread && sock_flag(sk, ENUM(sock_flags, SOCK_DONE)) ? unread - 1 : unread;
}

/*
 * Whether the last data went out after the last data came in. Both stamps are set when the connection is made, maybe a
 * jiffy apart, and mean nothing before data is sent. A quick peer's answer comes within the jiffy, as does the next
 * question after an answer. Then the order is told by snd_wl1, the sequence number of the segment that last moved the
 * window (tcp_ack_update_window(), net/ipv4/tcp_input.c): that of data is older than rcv_nxt, that of the bare ACK of
 * what we sent is rcv_nxt. A bare ACK long after says nothing: it answered a keepalive probe.
 */
static __always_inline bool sent_last(struct event *e, u64 sk)
{
    if (READ(tcp_sock, data_segs_out, sk) == 0 || e->since_sent == UNKNOWN || e->since_data == UNKNOWN)
        return false;
    if (e->since_sent != e->since_data)
        return e->since_sent < e->since_data;
    return (u32)READ(tcp_sock, snd_wl1, sk) == (u32)READ(tcp_sock, rcv_nxt, sk) &&
           e->since_sent - e->silent <= KERNEL_HZ;
}

int bpf_iter__tcp(struct bpf_iter__tcp *ctx)
{
    void *seq = ctx->meta->seq;
    u64 sk = (u64)ctx->sk_common;
    int zero = 0;
    struct event *e = scratch.lookup(&zero);
    struct tuple t = {};
    u8 state;

    if (sk == 0 || !e)
        return 0;
    state = READ(sock_common, skc_state, sk);
    if (!is_full_sock(state) || state == TCP_LISTEN || state == TCP_CLOSE || !tuple_of_sock(sk, &t, false))
        return 0;
    __builtin_memset(e, 0, sizeof(*e));
    e->type = EVENT_SOCKET;
    e->ktime_ns = bpf_ktime_get_boot_ns();
    fill_tuple(e, &t);
    fill_sock(e, sk);
    e->since_sent = jiffies_since(e->jiffies, READ(tcp_sock, lsndtime, sk));
    e->since_data = jiffies_since(e->jiffies, READ(inet_connection_sock, icsk_ack__lrcvtime, sk));
    e->unread = unread_bytes(sk);
    /* sk_clone_lock() copies what listen() set; connect() leaves it 0. */
    if (READ(sock, sk_max_ack_backlog, sk))
        e->flags |= ACCEPTED;
    if (e->unacked == 0 && e->unsent == 0 && e->unread == 0 && sent_last(e, sk))
        e->flags |= AWAITS;
    fill_timer(e, sk);
    bpf_seq_write(seq, e, sizeof(*e));
    return 0;
}

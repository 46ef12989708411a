// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The hooks. Each one filters, fills an event and submits it; nothing is changed and nothing is remembered but when a
 * socket's life began. Python attaches them by name: on_<raw tracepoint>, or on_<function> for the kprobe
 * (tracer/kernel/probes.py). Arguments are taken as u64, so that bcc's rewriter leaves them alone.
 */
#include "event.h"
#include "kernel.h"
#include "filter.h"
#include "sock.h"
#include "birth.h"

BPF_RINGBUF_OUTPUT(events, 1); /* pages; Python makes it as large as is asked for */
#define MMAPABLE (1U << 10)    /* BPF_F_MMAPABLE, include/uapi/linux/bpf.h (5.5) */

/*
 * Waking the reader takes an interrupt, and a round of Python's. So a mere change of state that comes soon after it was
 * woken waits until there are so many of them, or until it looks again by itself: as long as it finds something, that
 * is after no less than PATIENCE_NS (BUSY_MS in tracer/kernel/live.py). What a stall is told by wakes it at once.
 */
#define COMPANY 128 /* the smallest ring holds 280 events */
#define PATIENCE_NS 100000000ULL

struct wakeup {
    u64 ktime_ns; /* of the event that the reader was last woken for */
    u64 waiting;  /* changes of state since then, though it may have taken them meanwhile */
};

BPF_ARRAY(wakeups, struct wakeup, 1);

/* By hook. Python reads them in place, without the bpf() that needs CAP_BPF. */
BPF_F_TABLE("array", int, u64, lost, HOOKS, MMAPABLE);

/*
 * What a socket was like when it was closed with an error, for the report of that error a moment later on the same CPU.
 * sk_error_report() wakes the process first and traces then, and a connect() on another CPU may have taken sk_err in
 * between (net/core/sock.c); and with the state gone nobody knows any more whether a SYN or FIN was in flight.
 */
struct closing_error {
    u64 sk;
    s32 error;
    u32 unacked;
};

BPF_PERCPU_ARRAY(closing_errors, struct closing_error, 1);

static __always_inline struct wakeup *last_wakeup(void)
{
    int zero = 0;

    return wakeups.lookup(&zero);
}

static __always_inline struct event *new_event(u8 type, int hook, struct tuple *t)
{
    struct wakeup *last = last_wakeup();
    struct event *e;

    /* Before it has its place in the ring: so that whoever comes after it there knows of it. */
    if (type == EVENT_STATE && last)
        __sync_fetch_and_add(&last->waiting, 1);
    e = events.ringbuf_reserve(sizeof(struct event));
    if (!e) {
        lost.atomic_increment(hook);
        return NULL;
    }
    __builtin_memset(e, 0, sizeof(*e));
    e->ktime_ns = bpf_ktime_get_boot_ns();
    e->type = type;
    e->silent = UNKNOWN;
    e->retrying_ms = UNKNOWN;
    fill_tuple(e, t);
    return e;
}

static __always_inline void submit(struct event *e)
{
    struct wakeup *last = last_wakeup();
    u64 flags = 0;

    if (last && e->type == EVENT_STATE && last->waiting < COMPANY && e->ktime_ns - last->ktime_ns < PATIENCE_NS) {
        flags = BPF_RB_NO_WAKEUP;
    } else if (last) {
        /* By itself the kernel wakes the reader only for the first event that it has not taken: one of those, here. */
        if (last->waiting != 0)
            flags = BPF_RB_FORCE_WAKEUP;
        last->waiting = 0;
        last->ktime_ns = e->ktime_ns;
    }
    events.ringbuf_submit(e, flags);
}

/* Everything about a full socket, and whose it is. */
static __always_inline void describe_copy(struct event *e, u64 sk, struct sock_copy *s)
{
    e->sk = sk;
    fill_sock(e, s);
    fill_birth(e, sk);
}

/* The same of any socket, as far as it goes. */
static __always_inline void describe(struct event *e, u64 sk, int hook)
{
    struct sock_copy *s;

    e->sk = sk;
    if (!is_full_sock(e->state))
        return;
    s = copy_sock(sk, hook);
    if (!s)
        return;
    describe_copy(e, sk, s);
    give_back(s);
}

static __always_inline bool is_tcp(struct sock_copy *s)
{
    return COPIED(sock, sk_protocol, s->sock) == IPPROTO_TCP;
}

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

#if ARGS(inet_sk_error_report) == 0
static __always_inline void submit_error(u64 sk, struct sock_copy *s, struct tuple *t, s32 error)
{
    struct event *e = new_event(EVENT_ERROR, HOOK_ERROR, t);

    if (!e)
        return;
    describe_copy(e, sk, s);
    e->error = error;
    submit(e);
}
#endif

/* Before the first event of a life, and at the start of its end. */
static __always_inline void remember_owner(u64 sk, u32 old_state, u32 new_state)
{
    if (old_state == TCP_CLOSE && new_state == TCP_SYN_SENT)
        remember_birth(sk, true);
    else if (old_state == TCP_SYN_RECV && new_state == TCP_ESTABLISHED)
        remember_birth(sk, false);
    else if (new_state == TCP_FIN_WAIT1 || new_state == TCP_LAST_ACK)
        remember_closer(sk);
}

/* What is left to do when a socket is closed: tell of the error, now or when it is reported, and forget the socket. */
static __always_inline void closed(u64 sk, struct sock_copy *s, struct tuple *t, u32 old_state)
{
    s32 error = COPIED(sock, sk_err, s->sock);

    if (error != 0) {
#if ARGS(inet_sk_error_report) == 0
        submit_error(sk, s, t, error);
#else
        int zero = 0;
        struct closing_error *closing = closing_errors.lookup(&zero);

        if (closing) {
            closing->sk = sk;
            closing->error = error;
            closing->unacked = unacked_bytes(s, old_state);
        }
        /* The report of the error comes after the close, and still needs to know whose socket it is. */
        return;
#endif
    }
    births.delete(&sk);
}

static __always_inline void state_changes(u64 sk, struct sock_copy *s, struct tuple *t, u32 old_state, u32 new_state)
{
    bool connecting = old_state == TCP_CLOSE && new_state == TCP_SYN_SENT;
    struct event *e;

    remember_owner(sk, old_state, new_state);
    if (!connecting || ports_wanted(active_filters(), t->lport, t->rport, false)) {
        e = new_event(EVENT_STATE, HOOK_STATE, t);
        if (e) {
            describe_copy(e, sk, s);
            e->state = new_state;
            e->old_state = old_state;
            e->new_state = new_state;
            submit(e);
        }
    }
    if (new_state == TCP_CLOSE)
        closed(sk, s, t, old_state);
}

/* tcp_set_state(): inet_sk_state_store() traces just before it stores, net/ipv4/af_inet.c. */
int on_inet_sock_set_state(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    u32 old_state = ctx->args[1];
    u32 new_state = ctx->args[2];
    bool connecting = old_state == TCP_CLOSE && new_state == TCP_SYN_SENT;
    struct tuple t = {};
    struct sock_copy *s;

    /* A listener, or the child of one that will be ESTABLISHED at once: no connection yet. */
    if (old_state == TCP_LISTEN || !tuple_of_sock(sk, &t, connecting) || t.rport == 0)
        return 0;
    s = copy_sock(sk, HOOK_STATE);
    if (!s)
        return 0;
    if (is_tcp(s))
        state_changes(sk, s, &t, old_state, new_state);
    give_back(s);
    return 0;
}

#if ARGS(inet_sk_error_report) > 0
/* What the application's next call returns: sk_error_report(), net/core/sock.c (5.14). */
int on_inet_sk_error_report(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    int zero = 0;
    s32 error = READ(sock, sk_err, sk);
    struct closing_error *closing = closing_errors.lookup(&zero);
    bool closed = closing && closing->sk == sk;
    struct tuple t = {};
    struct sock_copy *s;
    struct event *e;

    if (closed) {
        if (error == 0)
            error = closing->error;
        closing->sk = 0;
    }
    /* Without an error this is a notice in the error queue: a time stamp, the end of a zero-copy send. */
    if (error == 0 || READ(sock, sk_protocol, sk) != IPPROTO_TCP || !tuple_of_sock(sk, &t, false))
        return 0;
    e = new_event(EVENT_ERROR, HOOK_ERROR, &t);
    if (e) {
        describe(e, sk, HOOK_ERROR);
        e->error = error;
        if (closed)
            e->unacked = closing->unacked;
        submit(e);
    }
    if (t.state == TCP_CLOSE)
        births.delete(&sk);
    return 0;
}
#endif

static __always_inline bool nothing_in_flight(struct sock_copy *s)
{
    return COPIED(tcp_sock, packets_out, s->sock) == 0;
}

static __always_inline bool nothing_unsent(struct sock_copy *s)
{
    return (u32)COPIED(tcp_sock, write_seq, s->sock) == (u32)COPIED(tcp_sock, snd_nxt, s->sock);
}

/* With nothing in flight: with nothing waiting either it is a keepalive probe, with data waiting one of a closed
 * window. */
static __always_inline void submit_probe(u64 sk, struct sock_copy *s, struct tuple *t)
{
    bool keepalive = nothing_unsent(s);
    struct event *e;

    e = new_event(keepalive ? EVENT_KEEPALIVE : EVENT_WINDOW_PROBE, keepalive ? HOOK_KEEPALIVE : HOOK_WINDOW_PROBE, t);
    if (!e)
        return;
    describe_copy(e, sk, s);
    /* icsk_probes_out does not count the probes of a window: each answer sets it back to 0. */
    e->attempt = (keepalive ? COPIED(inet_connection_sock, icsk_probes_out, s->sock) : e->backoff) + 1;
    submit(e);
}

/* Into a window that is merely too small for the next segment the kernel sends what fits instead of a probe. */
static __always_inline bool is_probe(struct sock_copy *s)
{
    return nothing_in_flight(s) && (nothing_unsent(s) || COPIED(tcp_sock, snd_wnd, s->sock) == 0);
}

/*
 * A probe goes out: tcp_write_wakeup(sk, mib), net/ipv4/tcp_output.c. With nothing in flight and nothing waiting it is
 * a keepalive probe, with data waiting one of a closed window; the two callers' own tests exclude each other.
 */
int on_tcp_write_wakeup(void *ctx)
{
    u64 sk = READ_FIRST_ARGUMENT(ctx);
    struct tuple t = {};
    struct sock_copy *s;

    if (!tuple_of_sock(sk, &t, false))
        return 0;
    s = copy_sock(sk, HOOK_KEEPALIVE);
    if (!s)
        return 0;
    if (is_probe(s))
        submit_probe(sk, s, &t);
    give_back(s);
    return 0;
}

/*
 * The same without kprobes: tcp_keepalive_timer() (net/ipv4/tcp_timer.c) will send a probe if its own tests say so.
 * They are repeated here in its order: the timer fires twice a cycle for one packet, and serves FIN_WAIT2 as well.
 */
static __always_inline bool keepalive_timer_probes(struct sock_copy *s, u8 state)
{
    u32 probes, elapsed, user_timeout;

    if (state == TCP_LISTEN || state == TCP_CLOSE || state == TCP_SYN_SENT)
        return false;
    if (state == TCP_FIN_WAIT2 && sock_flag(s, ENUM(sock_flags, SOCK_DEAD)))
        return false;
    if (!sock_flag(s, ENUM(sock_flags, SOCK_KEEPOPEN)) || !nothing_in_flight(s) || !nothing_unsent(s))
        return false;
    elapsed = silence(s);
    if (elapsed < keepalive_idle(s))
        return false;
    /* About to give up instead: that is a reset and an error, not a probe. */
    probes = COPIED(inet_connection_sock, icsk_probes_out, s->sock);
    user_timeout = COPIED(inet_connection_sock, icsk_user_timeout, s->sock);
    /* msecs_to_jiffies() rounds up. */
    if (user_timeout != 0)
        return probes == 0 || elapsed < ((u64)user_timeout * KERNEL_HZ + 999) / 1000;
    return probes < keepalive_probes(s);
}

/* Of the events that tcp_write_timer() serves, only the probe of a closed window is not seen elsewhere. */
static __always_inline bool write_timer_probes(struct sock_copy *s)
{
    return COPIED(inet_connection_sock, icsk_pending, s->sock) == TIMER_PROBE0 && is_probe(s) && !nothing_unsent(s);
}

/* Every timer of this host passes here. */
static __always_inline int timer_expires(u64 timer, u64 function)
{
    struct settings *current = current_settings();
    struct tuple t = {};
    struct sock_copy *s;
    bool of_keepalive;
    u64 sk;

    if (!current)
        return 0;
    of_keepalive = function == current->keepalive_timer;
    if (of_keepalive)
        sk = sock_of_keepalive_timer(timer);
    else if (function == current->write_timer)
        sk = sock_of_write_timer(timer);
    else
        return 0;
    if (!of_keepalive && READ(inet_connection_sock, icsk_pending, sk) != TIMER_PROBE0)
        return 0;
    if (!tuple_of_sock(sk, &t, false))
        return 0;
    s = copy_sock(sk, HOOK_KEEPALIVE);
    if (!s)
        return 0;
    /* While a process works on the socket, the timer only tells it to do what is due. */
    if (!COPIED(sock, sk_lock__owned, s->sock) &&
        (of_keepalive ? keepalive_timer_probes(s, t.state) : write_timer_probes(s)))
        submit_probe(sk, s, &t);
    give_back(s);
    return 0;
}

int on_timer_expire_entry(struct bpf_raw_tracepoint_args *ctx)
{
    u64 timer = ctx->args[0];

    return timer_expires(timer, READ(timer_list, function, timer));
}

int typed_timer_expire_entry(struct bpf_raw_tracepoint_args *ctx)
{
    u64 timer = ctx->args[0];

    return timer_expires(timer, LOAD(timer_list, function, (const u8 *)timer));
}

/* What a received segment says, from its header: tcp_rcv_established() has pulled skb->data to it. */
struct segment {
    u32 ack;
    u16 window;
    u16 flags; /* header length in the upper four bits, RST is 4 */
};

static __always_inline bool read_segment(u64 skb, struct segment *seg)
{
    struct {
        u32 ack;
        u16 flags;
        u16 window;
    } header = {};
    u64 data = READ(sk_buff, data, skb);

    if (bpf_probe_read_kernel(&header, sizeof(header), (void *)(data + 8)) != 0)
        return false;
    seg->ack = __builtin_bswap32(header.ack);
    seg->flags = swap16(header.flags);
    seg->window = swap16(header.window);
    return true;
}

/* Whether a silence is worth telling whatever the connection did before. */
static __always_inline bool is_long(u32 silent)
{
    struct settings *s = current_settings();

    return s && silent >= s->resume_jiffies;
}

/* What the segment means to a socket that was silent for so long; 0: nothing worth telling. */
static __always_inline u8 resume_cause(struct sock_copy *s, u64 skb, u32 silent)
{
    struct segment seg;
    bool empty, in_flight, acknowledges;

    /* A reset is no sign of life of the connection. Refused, it changes nothing; accepted, it has an event of its own.
     */
    if (!read_segment(skb, &seg) || (seg.flags & 4))
        return 0;
    in_flight = !nothing_in_flight(s);
    acknowledges = (s32)(seg.ack - (u32)COPIED(tcp_sock, snd_una, s->sock)) > 0;
    if (COPIED(inet_connection_sock, icsk_retransmits, s->sock) != 0 || COPIED(tcp_sock, tlp_high_seq, s->sock) != 0)
        return acknowledges ? RESUME_DATA : RESUME_NO_PROGRESS;
    if (!in_flight && !nothing_unsent(s))
        return seg.window != 0 ? RESUME_WINDOW : 0;
    empty = (u32)READ(sk_buff, len, skb) <= (u32)(seg.flags >> 12) * 4;
    if (empty && !in_flight) {
        /* Short of the threshold, only an answer that was already missed once is news. */
        if (!is_long(silent) && COPIED(inet_connection_sock, icsk_probes_out, s->sock) < 2)
            return 0;
        return RESUME_KEEPALIVE;
    }
    return is_long(silent) ? RESUME_DATA : 0;
}

/* A tenth of a second is less than any RTO, and longer than a pause of a connection that is busy. */
static __always_inline bool is_just_now(u32 now, u32 stamp)
{
    return now - stamp < KERNEL_HZ / 10;
}

static __always_inline int heard(u64 sk, u64 skb, u32 now, bool heard_just_now)
{
    struct sock_copy *s = copy_sock(sk, HOOK_RESUME);
    struct tuple t = {};
    struct event *e;
    u8 cause;

    if (!s)
        return 0;
    cause = resume_cause(s, skb, silence_at(s, now));
    /* Said once is enough of a burst that acknowledges nothing. */
    if (heard_just_now && cause == RESUME_NO_PROGRESS)
        cause = 0;
    if (cause != 0 && tuple_of_sock(sk, &t, false)) {
        e = new_event(EVENT_RESUME, HOOK_RESUME, &t);
        if (e) {
            describe_copy(e, sk, s);
            e->cause = cause;
            submit(e);
        }
    }
    give_back(s);
    return 0;
}

/*
 * The peer is heard: every segment that tcp_rcv_established() takes passes here, before the socket knows of it
 * (trace_tcp_probe(), net/ipv4/tcp_input.c). A connection in use leaves after a few reads, unless the kernel has begun
 * to repeat itself: then even a segment that comes right after another can be the one that gets it going again.
 */
int on_tcp_probe(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    u32 now = bpf_jiffies64();
    bool heard_just_now = is_just_now(now, READ(tcp_sock, rcv_tstamp, sk)) ||
                          is_just_now(now, READ(inet_connection_sock, icsk_ack__lrcvtime, sk));

    if (heard_just_now && READ(inet_connection_sock, icsk_retransmits, sk) == 0 &&
        READ(inet_connection_sock, icsk_backoff, sk) == 0)
        return 0;
    return heard(sk, ctx->args[1], now, heard_just_now);
}

/* The same without a helper for each read. */
int typed_tcp_probe(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    const u8 *tp = skc_to_tcp_sock(sk);
    u32 now = bpf_jiffies64();
    bool heard_just_now;

    if (!tp)
        return 0;
    heard_just_now = is_just_now(now, LOAD(tcp_sock, rcv_tstamp, tp)) ||
                     is_just_now(now, LOAD(inet_connection_sock, icsk_ack__lrcvtime, tp));
    if (heard_just_now && LOAD(inet_connection_sock, icsk_retransmits, tp) == 0 &&
        LOAD(inet_connection_sock, icsk_backoff, tp) == 0)
        return 0;
    return heard(sk, ctx->args[1], now, heard_just_now);
}

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

    /* A listener is no end of a connection: the packet says who is refused. */
    if (sk != 0 && READ(sock_common, skc_state, sk) == TCP_LISTEN)
        sk = 0;
    if (sk != 0) {
        if (!tuple_of_sock(sk, &t, false))
            return 0;
    } else if (skb == 0 || !tuple_of_packet(skb, &t)) {
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

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* State changes, and the errors that end a connection. */
#ifndef TCPWATCH_STATE_H
#define TCPWATCH_STATE_H

#include "submit.h"
#include "reentry.h"

/*
 * A socket at the moment when an error closed it, for the error report that follows on the same CPU. By then the state
 * is CLOSE, which hides whether a SYN or FIN was in flight, and sk_err may be 0: sk_error_report() wakes the process
 * before it traces, so that connect() on another CPU may have cleared it (net/core/sock.c).
 */
struct closing_error {
    u64 sk;
    s32 error;
    u32 unacked;
    u32 state;
    u32 reserved;
};

BPF_PERCPU_ARRAY(closing_errors, struct closing_error, 1);

#if TRACEPOINT_ARGS(inet_sk_error_report) == 0
static __always_inline void submit_error(u64 sk, struct sock_copy *s, struct tuple *t, s32 error)
{
    struct event *e = reserve_event(EVENT_ERROR, HOOK_ERROR, t);

    if (!e)
        return;
    fill_event_from(e, sk, s);
    e->error = error;
    submit(e);
}
#endif

/* At the start of a connection, and at its close. */
static __always_inline void record_process(u64 sk, u32 old_state, u32 new_state)
{
    if (old_state == TCP_CLOSE && new_state == TCP_SYN_SENT)
        record_origin(sk, true);
    else if (old_state == TCP_SYN_RECV)
        record_origin_if_unknown(sk);
    if (new_state == TCP_FIN_WAIT1 || new_state == TCP_LAST_ACK)
        record_closing_process(sk);
}

/* The error is submitted now, or kept for inet_sk_error_report (5.14). */
static __always_inline void handle_close(u64 sk, struct sock_copy *s, struct tuple *t, u32 old_state)
{
    s32 error = COPY_READ(sock, sk_err, s->sock);

    if (error != 0) {
#if TRACEPOINT_ARGS(inet_sk_error_report) == 0
        submit_error(sk, s, t, error);
#else
        int zero = 0;
        struct closing_error *closing = closing_errors.lookup(&zero);

        if (closing) {
            closing->sk = sk;
            closing->error = error;
            closing->unacked = unacked_bytes(s, old_state);
            closing->state = old_state;
        }
#endif
    }
    record_end(sk);
}

static __always_inline void submit_state_change(u64 sk, struct sock_copy *s, struct tuple *t, u32 old_state,
                                                u32 new_state)
{
    bool connecting = old_state == TCP_CLOSE && new_state == TCP_SYN_SENT;
    struct event *e;

    record_process(sk, old_state, new_state);
    if (!connecting || ports_match(active_filters(), t->lport, t->rport, false)) {
        e = reserve_event(EVENT_STATE, HOOK_STATE, t);
        if (e) {
            fill_event_from(e, sk, s);
            e->state = new_state;
            e->old_state = old_state;
            e->new_state = new_state;
            submit(e);
        }
    }
    if (new_state == TCP_CLOSE)
        handle_close(sk, s, t, old_state);
}

/* inet_sk_state_store(), net/ipv4/af_inet.c, traces just before it stores the new state. */
static __always_inline void handle_state_change(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    u32 old_state = ctx->args[1];
    u32 new_state = ctx->args[2];
    bool connecting = old_state == TCP_CLOSE && new_state == TCP_SYN_SENT;
    struct tuple t = {};
    struct sock_copy *s;

    /* Skip listeners and their new child sockets, which begin in LISTEN and become ESTABLISHED at once. */
    if (old_state == TCP_LISTEN && new_state == TCP_SYN_RECV)
        forget_origin(sk);
    if (old_state == TCP_LISTEN || !tuple_of_sock(sk, &t, connecting) || t.rport == 0)
        return;
    s = get_sock_copy(sk, HOOK_STATE);
    if (!s)
        return;
    if (is_tcp(s))
        submit_state_change(sk, s, &t, old_state, new_state);
    put_sock_copy(s);
}

int on_inet_sock_set_state(struct bpf_raw_tracepoint_args *ctx)
{
    struct reentry *r = reentry_of_cpu();

    if (!r)
        return 0;
    push_change(r, state_change(ctx));
    handle_state_change(ctx);
    return 0;
}

/* Attached after on_inet_sock_set_state(). */
int second_inet_sock_set_state(struct bpf_raw_tracepoint_args *ctx)
{
    struct reentry *r = reentry_of_cpu();

    if (!r || !was_missed(r, state_change(ctx)))
        return 0;
    handle_state_change(ctx);
    count_lost(COUNTER_REENTRY);
    return 0;
}

#if TRACEPOINT_ARGS(inet_sk_error_report) > 0
/* The error that the application's next call returns: sk_error_report(), net/core/sock.c (5.14). */
int on_inet_sk_error_report(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    int zero = 0;
    s32 error = CORE_READ(sock, sk_err, sk);
    struct closing_error *closing = closing_errors.lookup(&zero);
    bool is_closed = closing && closing->sk == sk;
    struct tuple t = {};
    struct sock_copy *s;
    struct event *e;

    if (is_closed) {
        if (error == 0)
            error = closing->error;
        closing->sk = 0;
    }
    /*
     * Without an error, the report is a message in the error queue: a time stamp, or a completed zero-copy send.
     * Without a remote port, the application aborted the connection by SO_LINGER or connect(AF_UNSPEC), and no call
     * returns the error (tcp_disconnect(), net/ipv4/tcp.c).
     */
    if (error == 0 || CORE_READ(sock_common, skc_dport, sk) == 0 || CORE_READ(sock, sk_protocol, sk) != IPPROTO_TCP ||
        !tuple_of_sock(sk, &t, false))
        return 0;
    e = reserve_event(EVENT_ERROR, HOOK_ERROR, &t);
    if (e) {
        fill_event(e, sk, HOOK_ERROR);
        e->error = error;
        if (is_closed) {
            e->unacked = closing->unacked;
            e->old_state = closing->state;
        }
        submit(e);
    }
    return 0;
}
#endif

#endif

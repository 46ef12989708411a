/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Changes of state, and the errors that end a connection. */
#ifndef TCPWATCH_STATE_H
#define TCPWATCH_STATE_H

#include "submit.h"
#include "nested.h"

/*
 * What a socket was like when it was closed with an error, for the report of that error a moment later on the same CPU.
 * sk_error_report() wakes the process first and traces then, and a connect() on another CPU may have taken sk_err in
 * between (net/core/sock.c); and with the state gone nobody knows any more whether a SYN or FIN was in flight.
 */
struct closing_error {
    u64 sk;
    s32 error;
    u32 unacked;
    u32 state;
    u32 reserved;
};

BPF_PERCPU_ARRAY(closing_errors, struct closing_error, 1);

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
    else if (old_state == TCP_SYN_RECV)
        remember_birth_at_last(sk);
    if (new_state == TCP_FIN_WAIT1 || new_state == TCP_LAST_ACK)
        remember_closer(sk);
}

/* What is left to do when a socket is closed: tell of the error, now or when it is reported. */
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
            closing->state = old_state;
        }
#endif
    }
    remember_end(sk);
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
static __always_inline void state_hook(struct bpf_raw_tracepoint_args *ctx)
{
    u64 sk = ctx->args[0];
    u32 old_state = ctx->args[1];
    u32 new_state = ctx->args[2];
    bool connecting = old_state == TCP_CLOSE && new_state == TCP_SYN_SENT;
    struct tuple t = {};
    struct sock_copy *s;

    /* A listener, or the child of one that will be ESTABLISHED at once: no connection yet. */
    if (old_state == TCP_LISTEN || !tuple_of_sock(sk, &t, connecting) || t.rport == 0)
        return;
    s = copy_sock(sk, HOOK_STATE);
    if (!s)
        return;
    if (is_tcp(s))
        state_changes(sk, s, &t, old_state, new_state);
    give_back(s);
}

int on_inet_sock_set_state(struct bpf_raw_tracepoint_args *ctx)
{
    struct notes *n = notes_of_cpu();

    if (!n)
        return 0;
    note(n, change_of_state(ctx));
    state_hook(ctx);
    return 0;
}

/* Attached after the other. */
int second_inet_sock_set_state(struct bpf_raw_tracepoint_args *ctx)
{
    struct notes *n = notes_of_cpu();

    if (!n || !is_not_noted(n, change_of_state(ctx)))
        return 0;
    state_hook(ctx);
    lost.atomic_increment(SEEN_BY_SECOND);
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
    /*
     * Without an error this is a notice in the error queue: a time stamp, the end of a zero-copy send. With the peer's
     * address gone it is the end of what this end has broken off itself, by SO_LINGER or connect(AF_UNSPEC), and no
     * call returns that error (tcp_disconnect(), net/ipv4/tcp.c).
     */
    if (error == 0 || READ(sock_common, skc_dport, sk) == 0 || READ(sock, sk_protocol, sk) != IPPROTO_TCP ||
        !tuple_of_sock(sk, &t, false))
        return 0;
    e = new_event(EVENT_ERROR, HOOK_ERROR, &t);
    if (e) {
        describe(e, sk, HOOK_ERROR);
        e->error = error;
        if (closed) {
            e->unacked = closing->unacked;
            e->old_state = closing->state;
        }
        submit(e);
    }
    return 0;
}
#endif

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Keepalive probes and window probes: traced when they are sent, or without kprobes when their timer expires. */
#ifndef TCPWATCH_PROBE_H
#define TCPWATCH_PROBE_H

#include "submit.h"
#include "request.h"
#include "timer.h"
#include "trouble.h"

/*
 * The event type for what tcp_write_wakeup() (net/ipv4/tcp_output.c) sends; 0: no event. Nothing in flight and nothing
 * unsent: a keepalive probe. Unsent data and a closed window: a window probe. Unsent data and an open window: data that
 * fits into a small window, that TCP_CORK held back, or that this host failed to send before. Only in the last case has
 * tcp_send_probe0() counted attempts; the count returns to 0 when anything is sent or received.
 */
static __always_inline u8 probe_type(struct sock_copy *s)
{
    if (!nothing_in_flight(s))
        return 0;
    if (nothing_unsent(s))
        return EVENT_KEEPALIVE;
    if (COPY_READ(tcp_sock, snd_wnd, s->sock) == 0)
        return EVENT_WINDOW_PROBE;
    return COPY_READ(inet_connection_sock, icsk_probes_out, s->sock) ? EVENT_UNSENT : 0;
}

static __always_inline void submit_probe(u64 sk, struct sock_copy *s, struct tuple *t)
{
    u8 type = probe_type(s);
    struct event *e;

    if (type == 0)
        return;
    e = reserve_event(type, type == EVENT_KEEPALIVE ? HOOK_KEEPALIVE : HOOK_WINDOW_PROBE, t);
    if (!e)
        return;
    fill_event_from(e, sk, s);
    fill_request(e, s);
    if (type != EVENT_KEEPALIVE)
        fill_probe0(e, s);
    /* Each answer to a window probe resets icsk_probes_out, so backoff counts these. */
    e->attempt = (type == EVENT_WINDOW_PROBE ? e->backoff : e->probes_out) + 1;
    submit(e);
}

int on_tcp_write_wakeup(void *ctx)
{
    u64 sk = KPROBE_FIRST_ARGUMENT(ctx);
    struct tuple t = {};
    struct sock_copy *s;

    if (!tuple_of_sock(sk, &t, false))
        return 0;
    s = get_sock_copy(sk, HOOK_KEEPALIVE);
    if (!s)
        return 0;
    submit_probe(sk, s, &t);
    put_sock_copy(s);
    return 0;
}

/*
 * Whether tcp_keepalive_timer() (net/ipv4/tcp_timer.c) is about to send a probe, by the same tests in the same order.
 * The timer expires twice for each probe, and also ends FIN_WAIT2.
 */
static __always_inline bool keepalive_timer_probes(struct sock_copy *s, u8 state)
{
    u32 probes, elapsed, user_timeout;

    if (state == TCP_LISTEN || state == TCP_CLOSE || state == TCP_SYN_SENT)
        return false;
    if (state == TCP_FIN_WAIT2 && sock_flag(s, ENUM_VALUE(sock_flags, SOCK_DEAD)))
        return false;
    if (!sock_flag(s, ENUM_VALUE(sock_flags, SOCK_KEEPOPEN)) || !nothing_in_flight(s) || !nothing_unsent(s))
        return false;
    elapsed = silence(s);
    if (elapsed < keepalive_idle(s))
        return false;
    /* Past the limit it ends the connection instead: a reset and an error. */
    probes = COPY_READ(inet_connection_sock, icsk_probes_out, s->sock);
    user_timeout = COPY_READ(inet_connection_sock, icsk_user_timeout, s->sock);
    /* msecs_to_jiffies() rounds up. */
    if (user_timeout != 0)
        return probes == 0 || elapsed < ((u64)user_timeout * KERNEL_HZ + 999) / 1000;
    return probes < keepalive_probes(s);
}

/*
 * Whether tcp_write_timer() is about to send a PROBE0, by the tests of tcp_probe_timer() (net/ipv4/tcp_timer.c). Past
 * the limit or TCP_USER_TIMEOUT it ends the connection instead. What else the timer does, other hooks trace.
 */
static __always_inline bool write_timer_probes(struct sock_copy *s)
{
    u32 user_timeout = COPY_READ(inet_connection_sock, icsk_user_timeout, s->sock);
    u32 probing = probe0_ms(s, bpf_jiffies64());
    bool orphan = sock_flag(s, ENUM_VALUE(sock_flags, SOCK_DEAD));
    u8 limit = probes_limit(s, orphan);

    if (COPY_READ(inet_connection_sock, icsk_pending, s->sock) != TIMER_PROBE0 || nothing_unsent(s))
        return false;
    if (user_timeout != 0 && probing != DURATION_UNKNOWN && probing >= user_timeout)
        return false;
    if (orphan && !rto_below_max(s) && COPY_READ(inet_connection_sock, icsk_backoff, s->sock) >= limit)
        return false;
    return COPY_READ(inet_connection_sock, icsk_probes_out, s->sock) < limit;
}

/* Runs for every timer of this host. */
static __always_inline int handle_timer(u64 timer, u64 function)
{
    struct settings *current = current_settings();
    struct tuple t = {};
    struct sock_copy *s;
    bool is_keepalive;
    u64 sk;

    if (!current)
        return 0;
    is_keepalive = function == current->keepalive_timer;
    if (is_keepalive)
        sk = sock_of_keepalive_timer(timer);
    else if (function == current->write_timer)
        sk = sock_of_write_timer(timer);
    else
        return 0;
    if (!is_keepalive && CORE_READ(inet_connection_sock, icsk_pending, sk) != TIMER_PROBE0)
        return 0;
    if (!tuple_of_sock(sk, &t, false))
        return 0;
    s = get_sock_copy(sk, HOOK_KEEPALIVE);
    if (!s)
        return 0;
    /* While a process owns the socket lock, the timer handler defers its work. */
    if (!COPY_READ(sock, sk_lock__owned, s->sock) &&
        (is_keepalive ? keepalive_timer_probes(s, t.state) : write_timer_probes(s)))
        submit_probe(sk, s, &t);
    put_sock_copy(s);
    return 0;
}

int on_timer_expire_entry(struct bpf_raw_tracepoint_args *ctx)
{
    u64 timer = ctx->args[0];

    return handle_timer(timer, CORE_READ(timer_list, function, timer));
}

int typed_timer_expire_entry(struct bpf_raw_tracepoint_args *ctx)
{
    u64 timer = ctx->args[0];

    return handle_timer(timer, TYPED_READ(timer_list, function, (const u8 *)timer));
}

#endif

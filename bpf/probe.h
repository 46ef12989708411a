/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Keepalive probes, and those of a closed window: told when they go out, or else when their timer expires. */
#ifndef TCPWATCH_PROBE_H
#define TCPWATCH_PROBE_H

#include "submit.h"
#include "exchange.h"

/*
 * What goes out when a timer has the kernel send something to hear from the peer, or to try again: tcp_write_wakeup(),
 * net/ipv4/tcp_output.c. With nothing in flight and nothing waiting it is a keepalive probe. With data waiting it is a
 * probe of a closed window, or data where the window is open: what fits into a small one, the rest that TCP_CORK held
 * back, or what this host did not let out before. Only of that has the timer counted an attempt (tcp_send_probe0()):
 * whatever was sent, or received, sets the count to 0.
 */
static __always_inline u8 what_goes_out(struct sock_copy *s)
{
    if (!nothing_in_flight(s))
        return 0;
    if (nothing_unsent(s))
        return EVENT_KEEPALIVE;
    if (COPIED(tcp_sock, snd_wnd, s->sock) == 0)
        return EVENT_WINDOW_PROBE;
    return COPIED(inet_connection_sock, icsk_probes_out, s->sock) ? EVENT_UNSENT : 0;
}

/* After fill_sock(). The clock and the limit of the PROBE0 timer are not those of a retransmission. */
static __always_inline void fill_probing(struct event *e, struct sock_copy *s)
{
    e->retries = probes_limit(s, e->orphan);
    e->retrying_ms = probing_ms(s, e->jiffies);
}

static __always_inline void submit_probe(u64 sk, struct sock_copy *s, struct tuple *t)
{
    u8 type = what_goes_out(s);
    struct event *e;

    if (type == 0)
        return;
    e = new_event(type, type == EVENT_KEEPALIVE ? HOOK_KEEPALIVE : HOOK_WINDOW_PROBE, t);
    if (!e)
        return;
    describe_copy(e, sk, s);
    fill_exchange(e, s);
    if (type != EVENT_KEEPALIVE)
        fill_probing(e, s);
    /* Of a window's probes each answer sets icsk_probes_out back to 0. */
    e->attempt = (type == EVENT_WINDOW_PROBE ? e->backoff : e->probes_out) + 1;
    submit(e);
}

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

/*
 * Of the events that tcp_write_timer() serves, only PROBE0 is not seen elsewhere. The tests of tcp_probe_timer()
 * (net/ipv4/tcp_timer.c): it gives up instead where the last one was one too many, or TCP_USER_TIMEOUT is over.
 */
static __always_inline bool write_timer_probes(struct sock_copy *s)
{
    u32 user_timeout = COPIED(inet_connection_sock, icsk_user_timeout, s->sock);
    u32 probing = probing_ms(s, bpf_jiffies64());
    bool orphan = sock_flag(s, ENUM(sock_flags, SOCK_DEAD));
    u8 limit = probes_limit(s, orphan);

    if (COPIED(inet_connection_sock, icsk_pending, s->sock) != TIMER_PROBE0 || nothing_unsent(s))
        return false;
    if (user_timeout != 0 && probing != UNKNOWN && probing >= user_timeout)
        return false;
    if (orphan && !is_alive(s) && COPIED(inet_connection_sock, icsk_backoff, s->sock) >= limit)
        return false;
    return COPIED(inet_connection_sock, icsk_probes_out, s->sock) < limit;
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

#endif

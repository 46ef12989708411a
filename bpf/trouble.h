/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Whether a socket is in trouble now, by one look at it: data, a SYN, a FIN or probes without an answer. */
#ifndef TCPWATCH_TROUBLE_H
#define TCPWATCH_TROUBLE_H

#include "event.h"
#include "kernel.h"
#include "sock.h"
#include "timer.h"

/* Call it after fill_sock(). The PROBE0 timer has a limit and a start time of its own. */
static __always_inline void fill_probe0(struct event *e, struct sock_copy *s)
{
    e->retries = probes_limit(s, e->orphan);
    e->retrying_ms = probe0_ms(s, e->jiffies);
}

/*
 * Whether keepalive probes are unanswered. An answer resets icsk_probes_out (tcp_ack(), net/ipv4/tcp_input.c). The
 * answer to a single probe may still be on its way, so it counts once it is older than an RTO. tcp_keepalive_timer()
 * (net/ipv4/tcp_timer.c) rearms itself for one interval after each probe, which gives the age of the last one.
 */
static __always_inline bool is_probing_in_vain(struct event *e, struct sock_copy *s)
{
    u8 probes = COPY_READ(inet_connection_sock, icsk_probes_out, s->sock);

    if (probes == 0 || e->timer != TIMER_KEEPALIVE || !(e->flags & FLAG_KEEPALIVE) || !nothing_in_flight(s) ||
        e->unsent)
        return false;
    return probes > 1 || (e->timer_in <= e->keepalive_interval && e->keepalive_interval - e->timer_in >= e->rto);
}

/* The type of event that shows the same trouble; fills its attempt. 0: no trouble. */
static __always_inline u8 trouble_type(struct event *e, struct sock_copy *s)
{
    if (!nothing_in_flight(s))
        /* A SYN or FIN is in flight too. fill_sock() has set the attempt. */
        return COPY_READ(inet_connection_sock, icsk_retransmits, s->sock) ? EVENT_RETRANSMIT : 0;
    if (e->timer == TIMER_PROBE0 && e->unsent && e->snd_wnd == 0 && e->backoff >= 3) {
        fill_probe0(e, s);
        e->attempt = e->backoff;
        return EVENT_WINDOW_PROBE;
    }
    if (e->timer == TIMER_PROBE0 && e->unsent && e->snd_wnd && e->probes_out) {
        fill_probe0(e, s);
        e->attempt = e->probes_out;
        return EVENT_UNSENT;
    }
    if (is_probing_in_vain(e, s)) {
        e->attempt = COPY_READ(inet_connection_sock, icsk_probes_out, s->sock);
        return EVENT_KEEPALIVE;
    }
    return 0;
}

/* Make the event an EVENT_FOUND with the time at which the timer runs; false: no trouble. Call it after fill_timer().
 */
static __always_inline bool fill_trouble(struct event *e, struct sock_copy *s)
{
    u8 like = trouble_type(e, s);

    if (!like)
        return false;
    fill_timer_run(e, s);
    e->type = EVENT_FOUND;
    e->found_like = like;
    /* While the retransmission timer is being served, the keepalive timer says nothing about it. */
    if (like == EVENT_RETRANSMIT && e->timer == TIMER_KEEPALIVE)
        e->timer_in = DURATION_UNKNOWN;
    return true;
}

#endif

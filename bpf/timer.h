/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which timer of a socket is armed, and when it expires. */
#ifndef TCPWATCH_TIMER_H
#define TCPWATCH_TIMER_H

#include "event.h"
#include "kernel.h"
#include "sock.h"

static __always_inline bool is_write_timer(u8 pending)
{
    return pending == TIMER_RETRANSMIT || pending == TIMER_PROBE0 || pending == TIMER_LOSS_PROBE ||
           pending == TIMER_REORDERING;
}

static __always_inline bool keepalive_timer_is_armed(struct sock_copy *s)
{
    return HAS(inet_connection_sock, icsk_keepalive_timer)
               ? COPIED(inet_connection_sock, icsk_keepalive_timer__entry__pprev, s->sock) != 0
               : COPIED(sock, sk_timer__entry__pprev, s->sock) != 0;
}

/* Jiffies from now until then; 0 for what is overdue. */
static __always_inline u32 jiffies_until(u32 now, u64 expires)
{
    return (s32)((u32)expires - now) > 0 ? (u32)expires - now : 0;
}

static __always_inline u32 keepalive_timer_in(struct sock_copy *s, u32 now)
{
    return jiffies_until(now, HAS(inet_connection_sock, icsk_keepalive_timer)
                                  ? COPIED(inet_connection_sock, icsk_keepalive_timer__expires, s->sock)
                                  : COPIED(sock, sk_timer__expires, s->sock));
}

static __always_inline u32 write_timer_in(struct sock_copy *s, u32 now)
{
    return jiffies_until(now, HAS(sock, tcp_retransmit_timer)
                                  ? COPIED(sock, tcp_retransmit_timer__expires, s->sock)
                                  : COPIED(inet_connection_sock, icsk_retransmit_timer__expires, s->sock));
}

/* The timer that `ss -o` would show, chosen as in inet_sk_diag_fill() (net/ipv4/inet_diag.c). */
static __always_inline void fill_timer(struct event *e, struct sock_copy *s)
{
    e->timer_in = UNKNOWN;
    if (is_write_timer(e->pending)) {
        e->timer = e->pending;
        e->timer_in = write_timer_in(s, e->jiffies);
    } else if (keepalive_timer_is_armed(s)) {
        e->timer = TIMER_KEEPALIVE;
        e->timer_in = keepalive_timer_in(s, e->jiffies);
    }
}

#endif

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

/*
 * When the timer wheel calls a timer that was armed for `expires`. Level n of the wheel has slots of 8^n jiffies, and a
 * timer is called with the slot after the one that it falls in: calc_index(), kernel/time/timer.c (4.8). Which of the
 * 64 slots of which level it waits in stands in its flags (include/linux/timer.h, TIMER_ARRAYSHIFT).
 */
#define TIMER_ARRAYSHIFT 22
#define LVL_BITS 6
#define LVL_CLK_SHIFT 3

static __always_inline u64 called_at(u64 expires, u32 flags)
{
    u32 shift = ((flags >> TIMER_ARRAYSHIFT) >> LVL_BITS) * LVL_CLK_SHIFT;

    return ((expires >> shift) + 1) << shift;
}

static __always_inline u64 keepalive_timer_expires(struct sock_copy *s)
{
    return HAS(inet_connection_sock, icsk_keepalive_timer)
               ? COPIED(inet_connection_sock, icsk_keepalive_timer__expires, s->sock)
               : COPIED(sock, sk_timer__expires, s->sock);
}

static __always_inline u32 keepalive_timer_flags(struct sock_copy *s)
{
    return HAS(inet_connection_sock, icsk_keepalive_timer)
               ? COPIED(inet_connection_sock, icsk_keepalive_timer__flags, s->sock)
               : COPIED(sock, sk_timer__flags, s->sock);
}

static __always_inline u64 write_timer_expires(struct sock_copy *s)
{
    return HAS(sock, tcp_retransmit_timer) ? COPIED(sock, tcp_retransmit_timer__expires, s->sock)
                                           : COPIED(inet_connection_sock, icsk_retransmit_timer__expires, s->sock);
}

static __always_inline u32 write_timer_flags(struct sock_copy *s)
{
    return HAS(sock, tcp_retransmit_timer) ? COPIED(sock, tcp_retransmit_timer__flags, s->sock)
                                           : COPIED(inet_connection_sock, icsk_retransmit_timer__flags, s->sock);
}

/* The timer that `ss -o` would show, chosen as in inet_sk_diag_fill() (net/ipv4/inet_diag.c). */
static __always_inline void fill_timer(struct event *e, struct sock_copy *s)
{
    e->timer_in = UNKNOWN;
    if (is_write_timer(e->pending)) {
        e->timer = e->pending;
        e->timer_in = jiffies_until(e->jiffies, write_timer_expires(s));
    } else if (keepalive_timer_is_armed(s)) {
        e->timer = TIMER_KEEPALIVE;
        e->timer_in = jiffies_until(e->jiffies, keepalive_timer_expires(s));
    }
}

/* The same timer, with the lateness of the wheel: when it really is called. */
static __always_inline void fill_timer_call(struct event *e, struct sock_copy *s)
{
    if (e->timer == TIMER_KEEPALIVE)
        e->timer_in = jiffies_until(e->jiffies, called_at(keepalive_timer_expires(s), keepalive_timer_flags(s)));
    else if (e->timer)
        e->timer_in = jiffies_until(e->jiffies, called_at(write_timer_expires(s), write_timer_flags(s)));
}

#endif

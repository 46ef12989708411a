/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The armed timer of a socket, and when it expires. */
#ifndef TCPWATCH_TIMER_H
#define TCPWATCH_TIMER_H

#include "event.h"
#include "kernel.h"
#include "sock.h"

/*
 * container_of() a timer. Both timers became other members of the socket in 6.19, the keepalive timer in earlier stable
 * releases too: BTF tells which.
 */
static __always_inline u64 sock_of_keepalive_timer(u64 timer)
{
    if (FIELD_EXISTS(inet_connection_sock, icsk_keepalive_timer))
        return timer - FIELD_OFFSET(inet_connection_sock, icsk_keepalive_timer);
    return timer - FIELD_OFFSET(sock, sk_timer);
}

static __always_inline u64 sock_of_write_timer(u64 timer)
{
    if (FIELD_EXISTS(sock, tcp_retransmit_timer))
        return timer - FIELD_OFFSET(sock, tcp_retransmit_timer);
    return timer - FIELD_OFFSET(inet_connection_sock, icsk_retransmit_timer);
}

static __always_inline bool is_write_timer(u8 pending)
{
    return pending == TIMER_RETRANSMIT || pending == TIMER_PROBE0 || pending == TIMER_LOSS_PROBE ||
           pending == TIMER_REORDERING;
}

static __always_inline bool keepalive_timer_is_armed(struct sock_copy *s)
{
    return FIELD_EXISTS(inet_connection_sock, icsk_keepalive_timer)
               ? COPY_READ(inet_connection_sock, icsk_keepalive_timer__entry__pprev, s->sock) != 0
               : COPY_READ(sock, sk_timer__entry__pprev, s->sock) != 0;
}

/* 0 if overdue. */
static __always_inline u32 jiffies_until(u32 now, u64 expires)
{
    return (s32)((u32)expires - now) > 0 ? (u32)expires - now : 0;
}

/*
 * When the timer wheel runs a timer that was armed for `expires`. Level n of the wheel has 64 slots of 8^n jiffies, and
 * a timer runs with the slot after the one that it falls in: calc_index(), kernel/time/timer.c (4.8). The timer's flags
 * have the index of its level and slot (include/linux/timer.h, TIMER_ARRAYSHIFT).
 */
#define TIMER_ARRAYSHIFT 22
#define LVL_BITS 6
#define LVL_CLK_SHIFT 3

static __always_inline u64 runs_at(u64 expires, u32 flags)
{
    u32 shift = ((flags >> TIMER_ARRAYSHIFT) >> LVL_BITS) * LVL_CLK_SHIFT;

    return ((expires >> shift) + 1) << shift;
}

static __always_inline u64 keepalive_timer_expires(struct sock_copy *s)
{
    return FIELD_EXISTS(inet_connection_sock, icsk_keepalive_timer)
               ? COPY_READ(inet_connection_sock, icsk_keepalive_timer__expires, s->sock)
               : COPY_READ(sock, sk_timer__expires, s->sock);
}

static __always_inline u32 keepalive_timer_flags(struct sock_copy *s)
{
    return FIELD_EXISTS(inet_connection_sock, icsk_keepalive_timer)
               ? COPY_READ(inet_connection_sock, icsk_keepalive_timer__flags, s->sock)
               : COPY_READ(sock, sk_timer__flags, s->sock);
}

static __always_inline u64 write_timer_expires(struct sock_copy *s)
{
    return FIELD_EXISTS(sock, tcp_retransmit_timer)
               ? COPY_READ(sock, tcp_retransmit_timer__expires, s->sock)
               : COPY_READ(inet_connection_sock, icsk_retransmit_timer__expires, s->sock);
}

static __always_inline u32 write_timer_flags(struct sock_copy *s)
{
    return FIELD_EXISTS(sock, tcp_retransmit_timer)
               ? COPY_READ(sock, tcp_retransmit_timer__flags, s->sock)
               : COPY_READ(inet_connection_sock, icsk_retransmit_timer__flags, s->sock);
}

/* The timer that `ss -o` shows, chosen as inet_sk_diag_fill() does (net/ipv4/inet_diag.c). */
static __always_inline void fill_timer(struct event *e, struct sock_copy *s)
{
    e->timer_in = DURATION_UNKNOWN;
    if (is_write_timer(e->pending)) {
        e->timer = e->pending;
        e->timer_in = jiffies_until(e->jiffies, write_timer_expires(s));
    } else if (keepalive_timer_is_armed(s)) {
        e->timer = TIMER_KEEPALIVE;
        e->timer_in = jiffies_until(e->jiffies, keepalive_timer_expires(s));
    }
}

/* Set timer_in to when the timer wheel runs the timer. Call it after fill_timer(). */
static __always_inline void fill_timer_run(struct event *e, struct sock_copy *s)
{
    if (e->timer == TIMER_KEEPALIVE)
        e->timer_in = jiffies_until(e->jiffies, runs_at(keepalive_timer_expires(s), keepalive_timer_flags(s)));
    else if (e->timer)
        e->timer_in = jiffies_until(e->jiffies, runs_at(write_timer_expires(s), write_timer_flags(s)));
}

#endif

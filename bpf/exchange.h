/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Question and answer: which end spoke last, and when. */
#ifndef TCPWATCH_EXCHANGE_H
#define TCPWATCH_EXCHANGE_H

#include "event.h"
#include "kernel.h"
#include "sock.h"

/* What FIONREAD would say but for urgent data: tcp_inq(), include/net/tcp.h. The FIN takes a sequence number. */
static __always_inline u32 unread_bytes(struct sock_copy *s)
{
    u32 unread = (u32)COPIED(tcp_sock, rcv_nxt, s->sock) - (u32)COPIED(tcp_sock, copied_seq, s->sock);

    return unread && sock_flag(s, ENUM(sock_flags, SOCK_DONE)) ? unread - 1 : unread;
}

/*
 * Whether the last data went out after the last data came in. Both stamps are set when the connection is made, maybe a
 * jiffy apart, and mean nothing before data is sent. A quick peer's answer comes within the jiffy, as does the next
 * question after an answer. Then the order is told by snd_wl1, the sequence number of the segment that last moved the
 * window (tcp_ack_update_window(), net/ipv4/tcp_input.c): that of data is older than rcv_nxt, that of the bare ACK of
 * what we sent is rcv_nxt. A bare ACK long after says nothing: it answered a keepalive probe.
 */
static __always_inline bool sent_last(struct event *e, struct sock_copy *s)
{
    if (COPIED(tcp_sock, data_segs_out, s->sock) == 0 || e->since_sent == UNKNOWN || e->since_data == UNKNOWN)
        return false;
    if (e->since_sent != e->since_data)
        return e->since_sent < e->since_data;
    return (u32)COPIED(tcp_sock, snd_wl1, s->sock) == (u32)COPIED(tcp_sock, rcv_nxt, s->sock) &&
           e->since_sent - e->silent <= KERNEL_HZ;
}

/* After fill_sock(). */
static __always_inline void fill_exchange(struct event *e, struct sock_copy *s)
{
    e->since_sent = jiffies_since(e->jiffies, COPIED(tcp_sock, lsndtime, s->sock));
    e->since_data = jiffies_since(e->jiffies, COPIED(inet_connection_sock, icsk_ack__lrcvtime, s->sock));
    e->unread = unread_bytes(s);
    /* sk_clone_lock() copies what listen() set; connect() leaves it 0. */
    if (COPIED(sock, sk_max_ack_backlog, s->sock))
        e->flags |= ACCEPTED;
    if (e->unacked == 0 && e->unsent == 0 && e->unread == 0 && sent_last(e, s))
        e->flags |= AWAITS;
}

#endif

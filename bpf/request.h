/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Requests and responses: which end sent data last, and when. */
#ifndef TCPWATCH_REQUEST_H
#define TCPWATCH_REQUEST_H

#include "event.h"
#include "kernel.h"
#include "sock.h"

/* tcp_inq(), include/net/tcp.h, without urgent data: FIONREAD. A FIN takes a sequence number. */
static __always_inline u32 unread_bytes(struct sock_copy *s)
{
    u32 unread = (u32)COPY_READ(tcp_sock, rcv_nxt, s->sock) - (u32)COPY_READ(tcp_sock, copied_seq, s->sock);

    return unread && sock_flag(s, ENUM_VALUE(sock_flags, SOCK_DONE)) ? unread - 1 : unread;
}

/*
 * Whether this end sent data after it last received data.
 *
 * Both stamps are set when the connection is made, maybe a jiffy apart, and mean nothing before data is sent. A fast
 * peer answers within the jiffy of the request, and the next request may follow within it. snd_wl1 then decides: it is
 * the sequence number of the segment that last updated the window (tcp_ack_update_window(), net/ipv4/tcp_input.c). That
 * of data is below rcv_nxt, that of the bare ACK of our data is rcv_nxt. A bare ACK much later does not count: it
 * answered a keepalive probe.
 */
static __always_inline bool sent_last(struct event *e, struct sock_copy *s)
{
    if (COPY_READ(tcp_sock, data_segs_out, s->sock) == 0 || e->since_sent == DURATION_UNKNOWN ||
        e->since_data == DURATION_UNKNOWN)
        return false;
    if (e->since_sent != e->since_data)
        return e->since_sent < e->since_data;
    return (u32)COPY_READ(tcp_sock, snd_wl1, s->sock) == (u32)COPY_READ(tcp_sock, rcv_nxt, s->sock) &&
           e->since_sent - e->silent <= KERNEL_HZ;
}

/*
 * Whether a response would wake anything: a thread in recv() or poll() is in the socket's wait queue, and so is an
 * epoll instance with the socket (sock_poll_wait(), include/net/sock.h). The queue is empty for an idle connection in
 * the pool of a blocking client that expects no response.
 */
static __always_inline bool has_waiter(struct sock_copy *s)
{
    u64 queue = COPY_READ(sock, sk_wq, s->sock);

    if (!FIELD_EXISTS(sock, sk_wq) || !FIELD_EXISTS(socket_wq, wait__head__next))
        return true;
    return queue != 0 && CORE_READ(socket_wq, wait__head__next, queue) != queue + FIELD_OFFSET(socket_wq, wait__head);
}

/* Call it after fill_sock(). */
static __always_inline void fill_request(struct event *e, struct sock_copy *s)
{
    e->since_sent = jiffies_since(e->jiffies, COPY_READ(tcp_sock, lsndtime, s->sock));
    e->since_data = jiffies_since(e->jiffies, COPY_READ(inet_connection_sock, icsk_ack__lrcvtime, s->sock));
    e->unread = unread_bytes(s);
    /* listen() sets it and sk_clone_lock() copies it; connect() leaves it 0. */
    if (COPY_READ(sock, sk_max_ack_backlog, s->sock))
        e->flags |= FLAG_ACCEPTED;
    if (e->unacked == 0 && e->unsent == 0 && e->unread == 0 && sent_last(e, s))
        e->flags |= FLAG_AWAITS_RESPONSE;
}

#endif

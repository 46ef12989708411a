/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What no hook sees, because nothing happens: connections that were in trouble before anything was attached, and those
 * that wait for an answer. An iterator over the open files of all tasks (BPF_TRACE_ITER, bpf_iter__task_file,
 * kernel/bpf/task_iter.c, 5.8) reaches the TCP sockets of every network namespace together with who holds them, and
 * writes a struct event for each pair of a holder and a socket that is worth telling. Reading the iterator runs it.
 */
#ifndef TCPWATCH_WALK_H
#define TCPWATCH_WALK_H

#include "submit.h"
#include "probe.h"
#include "exchange.h"
#include "files.h"
#include "process.h"
#include "timer.h"

enum walk_flags {
    WALK_TROUBLE = 1, /* report trouble */
    WALK_ALL = 2,     /* report all that wait, even if reported before */
    WALK_SERVICE = 4, /* report connections to one service that have been silent for long */
};

/* The walk that is under way. Python writes what begins with the flags in place, without the bpf() that needs CAP_BPF.
 */
struct walk {
    u64 session_id;
    u64 began;    /* jiffies */
    u64 previous; /* jiffies: when the one before it began; 0 for none */
    u32 flags;    /* enum walk_flags */
    /* WALK_SERVICE: one of its connections was found dead after that silence. */
    u32 silent; /* jiffies */
    u8 raddr[16];
    u16 port;     /* the remote one; the local one where the service is ours */
    u16 is_local; /* the service is ours */
    u32 reserved;
};

BPF_F_TABLE("array", int, struct walk, walks, 1, MMAPABLE);
BPF_PERCPU_ARRAY(walked, struct event, 1);

static __always_inline struct walk *current_walk(u64 session_id)
{
    int zero = 0;
    struct walk *w = walks.lookup(&zero);

    if (w && w->session_id != session_id) {
        w->session_id = session_id;
        w->previous = w->flags & WALK_ALL ? 0 : w->began;
        w->began = bpf_jiffies64();
    }
    return w;
}

/* A connection, of which there may be more to tell. */
static __always_inline bool is_connection(u8 state)
{
    return is_full_sock(state) && state != TCP_LISTEN && state != TCP_CLOSE;
}

/* Whether one look at a few members leaves trouble possible. */
static __always_inline bool may_be_in_trouble(u64 sk)
{
    return READ(inet_connection_sock, icsk_retransmits, sk) || READ(inet_connection_sock, icsk_probes_out, sk) ||
           READ(inet_connection_sock, icsk_backoff, sk);
}

/* The same of waiting. Of most connections the peer spoke last. */
static __always_inline bool may_be_waiting(u64 sk, u8 state, u32 now)
{
    struct settings *s = current_settings();
    u32 sent, data;

    if (!s || state != TCP_ESTABLISHED)
        return false;
    sent = READ(tcp_sock, lsndtime, sk);
    data = READ(inet_connection_sock, icsk_ack__lrcvtime, sk);
    return now - sent <= now - data && silence_of(READ(tcp_sock, rcv_tstamp, sk), data, now) >= s->waiting_jiffies;
}

/*
 * Whether keepalive probes go out in vain. An answer sets icsk_probes_out back to 0 (tcp_ack(), net/ipv4/tcp_input.c),
 * so that a single probe may still be under way: it counts once it is older than an RTO. tcp_keepalive_timer()
 * (net/ipv4/tcp_timer.c) arms itself anew for one interval after each probe.
 */
static __always_inline bool probes_in_vain(struct event *e, struct sock_copy *s)
{
    u8 probes = COPIED(inet_connection_sock, icsk_probes_out, s->sock);

    if (probes == 0 || e->timer != TIMER_KEEPALIVE || !(e->flags & KEEPALIVE) || !nothing_in_flight(s) || e->unsent)
        return false;
    return probes > 1 || (e->timer_in <= e->keepalive_interval && e->keepalive_interval - e->timer_in >= e->rto);
}

/* Which event it would be that tells of this trouble, and its `attempt`; 0: no trouble. */
static __always_inline u8 trouble(struct event *e, struct sock_copy *s)
{
    if (!nothing_in_flight(s))
        /* SYN and FIN are in flight as well. fill_sock() has set the attempt. */
        return COPIED(inet_connection_sock, icsk_retransmits, s->sock) ? EVENT_RETRANSMIT : 0;
    if (e->timer == TIMER_PROBE0 && e->unsent && e->snd_wnd == 0 && e->backoff >= 3) {
        fill_probing(e, s);
        e->attempt = e->backoff;
        return EVENT_WINDOW_PROBE;
    }
    if (e->timer == TIMER_PROBE0 && e->unsent && e->snd_wnd && e->probes_out) {
        fill_probing(e, s);
        e->attempt = e->probes_out;
        return EVENT_UNSENT;
    }
    if (probes_in_vain(e, s)) {
        e->attempt = COPIED(inet_connection_sock, icsk_probes_out, s->sock);
        return EVENT_KEEPALIVE;
    }
    return 0;
}

/* Whether it is a connection to the service that is asked about, and its peer has been silent for as long. */
static __always_inline bool is_suspect(struct walk *w, struct tuple *t, u64 sk, u32 now)
{
    u64 asked[2], raddr[2];

    if (!(w->flags & WALK_SERVICE) || t->state != TCP_ESTABLISHED || (w->is_local ? t->lport : t->rport) != w->port)
        return false;
    __builtin_memcpy(asked, w->raddr, 16);
    __builtin_memcpy(raddr, t->raddr, 16);
    if (asked[0] != raddr[0] || asked[1] != raddr[1])
        return false;
    return silence_of(READ(tcp_sock, rcv_tstamp, sk), READ(inet_connection_sock, icsk_ack__lrcvtime, sk), now) >=
           w->silent;
}

/*
 * The silence from which on waiting is reported. Where keepalive begins soon its probes report it, if there are any: a
 * timer that was armed before the settings were changed goes on as it was. The timer wheel is late by up to an eighth
 * (kernel/time/timer.c).
 */
#define SOON (600 * KERNEL_HZ)

static __always_inline u32 waiting_threshold(struct event *e)
{
    struct settings *s = current_settings();
    u32 first = s ? s->waiting_jiffies : 0;
    u32 probed = e->keepalive_idle + e->keepalive_interval;

    if (!(e->flags & KEEPALIVE) || e->keepalive_idle > SOON)
        return first;
    probed += probed / 8 + KERNEL_HZ;
    return probed > first ? probed : first;
}

/*
 * Whether it is time to tell of a silence: when it has reached the threshold, and then each time that it has doubled.
 * Nothing is remembered of a socket. Counted in thresholds, a silence has doubled since the previous walk if its
 * highest bit is a higher one than then. Both are taken as of the beginning of a walk, so that nothing is reported
 * twice.
 */
static __always_inline bool is_due(struct walk *w, struct event *e)
{
    u32 threshold = waiting_threshold(e);
    u32 since_began = e->jiffies - (u32)w->began;
    u64 since_previous = w->began - w->previous;
    u32 silent, before;

    if (threshold == 0 || e->silent == UNKNOWN || e->silent < since_began)
        return false;
    silent = e->silent - since_began;
    before = silent > since_previous ? silent - since_previous : 0;
    silent /= threshold;
    before /= threshold;
    return (silent ^ before) > before;
}

/*
 * Whether anybody would be woken by the answer: a thread in recv() or poll() stands in the socket's wait queue, and so
 * does an epoll instance that has the socket (sock_poll_wait(), include/net/sock.h). Of an idle connection in the pool
 * of a blocking client, whose last message needed no answer, the queue is empty.
 */
static __always_inline bool is_waited_for(struct sock_copy *s)
{
    u64 queue = COPIED(sock, sk_wq, s->sock);

    if (!HAS(sock, sk_wq) || !HAS(socket_wq, wait__head__next))
        return true;
    return queue != 0 && READ(socket_wq, wait__head__next, queue) != queue + OFFSET(socket_wq, wait__head);
}

static __always_inline bool waits(struct event *e, struct sock_copy *s)
{
    /* While keepalive probes go out unanswered, they tell. */
    return e->state == TCP_ESTABLISHED && (e->flags & (AWAITS | ACCEPTED)) == AWAITS && nothing_in_flight(s) &&
           COPIED(inet_connection_sock, icsk_probes_out, s->sock) == 0 && is_waited_for(s);
}

/* Whether the socket is worth an event, which is then filled. troubled: trouble is one. */
static __always_inline bool found(struct event *e, u64 sk, struct sock_copy *s, struct walk *w, bool troubled,
                                  bool suspect)
{
    u8 like = 0;

    describe_copy(e, sk, s);
    fill_exchange(e, s);
    fill_timer(e, s);
    if (troubled)
        like = trouble(e, s);
    fill_timer_call(e, s);
    if (like) {
        e->type = EVENT_FOUND;
        e->found_like = like;
        /* While the retransmission timer is at work, the other one is no measure of it. */
        if (like == EVENT_RETRANSMIT && e->timer == TIMER_KEEPALIVE)
            e->timer_in = UNKNOWN;
        return true;
    }
    e->type = EVENT_WAITING;
    if (waits(e, s) && is_due(w, e))
        return true;
    e->type = EVENT_FOUND;
    e->found_like = EVENT_SOCKET;
    return suspect && nothing_in_flight(s) && !e->unsent;
}

int bpf_iter__task_file(struct bpf_iter__task_file *ctx)
{
    void *seq = ctx->meta->seq;
    const u8 *file = ctx->file;
    u64 task = (u64)ctx->task;
    int zero = 0;
    struct walk *w = current_walk(ctx->meta->session_id);
    struct event *e = walked.lookup(&zero);
    struct tuple t = {};
    struct sock_copy *s;
    bool troubled, suspect, is_found;
    u64 sk;

    if (!file || !task || !w || !e)
        return 0;
    sk = tcp_socket_of(file);
    if (sk == 0 || !is_connection(READ(sock_common, skc_state, sk)) || !tuple_of_sock(sk, &t, false))
        return 0;
    /*
     * Later on trouble has its events, unless they are lost, or are none: before Linux 6.17 those of retransmissions
     * that this host itself drops.
     */
    troubled = w->flags & WALK_TROUBLE ? may_be_in_trouble(sk)
                                       : is_retransmitted_unseen(sk, READ(inet_connection_sock, icsk_retransmits, sk));
    suspect = is_suspect(w, &t, sk, bpf_jiffies64());
    if (!suspect && !troubled && !may_be_waiting(sk, t.state, bpf_jiffies64()))
        return 0;
    s = copy_sock(sk, COPY_OF_WALK);
    if (!s)
        return 0;
    start_event(e, EVENT_FOUND, &t);
    is_found = found(e, sk, s, w, troubled, suspect);
    give_back(s);
    if (is_found) {
        if (w->flags & WALK_TROUBLE && e->found_like == EVENT_RETRANSMIT)
            remember_retransmissions(sk, e->attempt);
        e->pid = number_for_reader(task);
        copy_comm(e->comm, task);
        bpf_seq_write(seq, e, sizeof(*e));
    }
    return 0;
}

#endif

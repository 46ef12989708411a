/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Walk over all sockets, to find what no hook traces: connections that were in trouble before tcpwatch started, and
 * connections that wait for a response.
 *
 * An iterator over the open files of all tasks (BPF_TRACE_ITER, bpf_iter__task_file, kernel/bpf/task_iter.c, 5.8)
 * reaches the TCP sockets of every network namespace, each with a process that holds it. It writes a struct event for
 * each reported pair of a process and a socket. Reading the iterator runs it (tracer/kernel/walks.py).
 */
#ifndef TCPWATCH_WALK_H
#define TCPWATCH_WALK_H

#include "submit.h"
#include "probe.h"
#include "request.h"
#include "files.h"
#include "process.h"
#include "timer.h"
#include "trouble.h"

enum walk_flags {
    WALK_TROUBLE = 1,     /* report connections in trouble */
    WALK_ALL_WAITING = 2, /* report all connections that wait, even those of earlier walks */
    WALK_SERVICE = 4,     /* report idle connections to one service */
};

/* The current walk. Python writes the members from flags on through mmap(), which needs no capability. */
struct walk {
    u64 session_id;
    u64 began;    /* jiffies */
    u64 previous; /* jiffies when the previous walk began; 0: none */
    u32 flags;    /* enum walk_flags */
    /* WALK_SERVICE */
    u32 silent; /* jiffies: report connections with at least this silence */
    u8 raddr[16];
    u16 port;     /* remote, or local with is_local */
    u16 is_local; /* this host is the server */
    u32 reserved;
};

BPF_F_TABLE("array", int, struct walk, walks, 1, BPF_F_MMAPABLE);
BPF_PERCPU_ARRAY(walk_events, struct event, 1);

static __always_inline struct walk *walk_of_session(u64 session_id)
{
    int zero = 0;
    struct walk *w = walks.lookup(&zero);

    if (w && w->session_id != session_id) {
        w->session_id = session_id;
        w->previous = w->flags & WALK_ALL_WAITING ? 0 : w->began;
        w->began = bpf_jiffies64();
    }
    return w;
}

static __always_inline bool is_connection(u8 state)
{
    return is_full_sock(state) && state != TCP_LISTEN && state != TCP_CLOSE;
}

/* A cheap test, before the socket is copied. */
static __always_inline bool may_be_in_trouble(u64 sk)
{
    return CORE_READ(inet_connection_sock, icsk_retransmits, sk) ||
           CORE_READ(inet_connection_sock, icsk_probes_out, sk) || CORE_READ(inet_connection_sock, icsk_backoff, sk);
}

/* A cheap test, before the socket is copied: on most connections the peer sent last. */
static __always_inline bool may_be_waiting(u64 sk, u8 state, u32 now)
{
    struct settings *s = current_settings();
    u32 sent, data;

    if (!s || state != TCP_ESTABLISHED)
        return false;
    sent = CORE_READ(tcp_sock, lsndtime, sk);
    data = CORE_READ(inet_connection_sock, icsk_ack__lrcvtime, sk);
    return now - sent <= now - data &&
           silence_from_stamps(CORE_READ(tcp_sock, rcv_tstamp, sk), data, now) >= s->waiting_jiffies;
}

/* WALK_SERVICE: whether the connection is to the service, and idle long enough. */
static __always_inline bool is_suspect(struct walk *w, struct tuple *t, u64 sk, u32 now)
{
    u64 asked[2], raddr[2];

    if (!(w->flags & WALK_SERVICE) || t->state != TCP_ESTABLISHED || (w->is_local ? t->lport : t->rport) != w->port)
        return false;
    __builtin_memcpy(asked, w->raddr, 16);
    __builtin_memcpy(raddr, t->raddr, 16);
    if (asked[0] != raddr[0] || asked[1] != raddr[1])
        return false;
    return silence_from_stamps(CORE_READ(tcp_sock, rcv_tstamp, sk),
                               CORE_READ(inet_connection_sock, icsk_ack__lrcvtime, sk), now) >= w->silent;
}

/*
 * The silence in jiffies from which on a waiting connection is reported. If keepalive probes are due soon, wait for
 * them, because they report the connection themselves. They may not come: changed settings do not apply to a timer that
 * is already armed. The timer wheel is late by up to an eighth (kernel/time/timer.c).
 */
#define SOON (600 * KERNEL_HZ)

static __always_inline u32 waiting_threshold(struct event *e)
{
    struct settings *s = current_settings();
    u32 first = s ? s->waiting_jiffies : 0;
    u32 probed = e->keepalive_idle + e->keepalive_interval;

    if (!(e->flags & FLAG_KEEPALIVE) || e->keepalive_idle > SOON)
        return first;
    probed += probed / 8 + KERNEL_HZ;
    return probed > first ? probed : first;
}

/*
 * Whether to report a silence: once it reaches the threshold, and each time it has doubled since. No state is kept per
 * socket. Measured in thresholds, a silence has doubled since the previous walk if its highest bit is higher than it
 * was then. Both silences are taken at the beginning of a walk, so that none is reported twice.
 */
static __always_inline bool is_due(struct walk *w, struct event *e)
{
    u32 threshold = waiting_threshold(e);
    u32 since_began = e->jiffies - (u32)w->began;
    u64 since_previous = w->began - w->previous;
    u32 silent, before;

    if (threshold == 0 || e->silent == DURATION_UNKNOWN || e->silent < since_began)
        return false;
    silent = e->silent - since_began;
    before = silent > since_previous ? silent - since_previous : 0;
    silent /= threshold;
    before /= threshold;
    return (silent ^ before) > before;
}

static __always_inline bool is_waiting(struct event *e, struct sock_copy *s)
{
    /* Unanswered keepalive probes are reported as such. */
    return e->state == TCP_ESTABLISHED && (e->flags & (FLAG_AWAITS_RESPONSE | FLAG_ACCEPTED)) == FLAG_AWAITS_RESPONSE &&
           nothing_in_flight(s) && COPY_READ(inet_connection_sock, icsk_probes_out, s->sock) == 0 && has_waiter(s);
}

/* Fill the event; false: the socket is not reported. troubled: trouble is reported. */
static __always_inline bool fill_found(struct event *e, u64 sk, struct sock_copy *s, struct walk *w, bool troubled,
                                       bool suspect)
{
    fill_event_from(e, sk, s);
    fill_request(e, s);
    fill_timer(e, s);
    if (troubled && fill_trouble(e, s))
        return true;
    fill_timer_run(e, s);
    e->type = EVENT_WAITING;
    if (is_waiting(e, s) && is_due(w, e))
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
    struct walk *w = walk_of_session(ctx->meta->session_id);
    struct event *e = walk_events.lookup(&zero);
    struct tuple t = {};
    struct sock_copy *s;
    bool troubled, suspect, is_found;
    u64 sk;

    if (!file || !task || !w || !e)
        return 0;
    sk = tcp_socket_of(file);
    if (sk == 0 || !is_connection(CORE_READ(sock_common, skc_state, sk)) || !tuple_of_sock(sk, &t, false))
        return 0;
    /*
     * Later walks report only trouble without events: lost ones, and before Linux 6.17 retransmissions that this host
     * itself drops.
     */
    troubled = w->flags & WALK_TROUBLE
                   ? may_be_in_trouble(sk)
                   : has_unseen_retransmits(sk, CORE_READ(inet_connection_sock, icsk_retransmits, sk));
    suspect = is_suspect(w, &t, sk, bpf_jiffies64());
    if (!suspect && !troubled && !may_be_waiting(sk, t.state, bpf_jiffies64()))
        return 0;
    s = get_sock_copy(sk, SLOT_WALK);
    if (!s)
        return 0;
    start_event(e, EVENT_FOUND, &t);
    is_found = fill_found(e, sk, s, w, troubled, suspect);
    put_sock_copy(s);
    if (is_found) {
        if (w->flags & WALK_TROUBLE && e->found_like == EVENT_RETRANSMIT)
            record_retransmits(sk, e->attempt);
        e->pid = pid_for_reader(task);
        copy_comm(e->comm, task);
        bpf_seq_write(seq, e, sizeof(*e));
    }
    return 0;
}

#endif

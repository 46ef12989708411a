/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How an event gets from a hook to the reader: its place in the ring, what every event says, and when to wake. */
#ifndef TCPWATCH_SUBMIT_H
#define TCPWATCH_SUBMIT_H

#include "event.h"
#include "kernel.h"
#include "filter.h"
#include "settings.h"
#include "sock.h"
#include "birth.h"

BPF_RINGBUF_OUTPUT(events, 1); /* pages; Python makes it as large as is asked for */

/*
 * Waking the reader takes an interrupt, and all that Python needs has to come into the processor's cache anew. So a
 * mere change of state that comes soon after it was woken waits for company (settings.h), or until the reader looks
 * again by itself: as long as it finds something, that is after no less than PATIENCE_NS (BUSY_MS in
 * tracer/kernel/live.py). What a stall is told by wakes it at once.
 */
#define PATIENCE_NS 100000000ULL

struct wakeup {
    u64 ktime_ns; /* of the event that the reader was last woken for */
    u64 waiting;  /* changes of state since then, though it may have taken them meanwhile */
};

BPF_ARRAY(wakeups, struct wakeup, 1);

/* That found no room in the ring, by hook. Python reads them in place, without the bpf() that needs CAP_BPF. */
BPF_F_TABLE("array", int, u64, lost, LOST_COUNTERS, MMAPABLE);

static __always_inline struct wakeup *last_wakeup(void)
{
    int zero = 0;

    return wakeups.lookup(&zero);
}

/* What every event says. */
static __always_inline void start_event(struct event *e, u8 type, struct tuple *t)
{
    __builtin_memset(e, 0, sizeof(*e));
    e->ktime_ns = bpf_ktime_get_boot_ns();
    e->type = type;
    e->silent = UNKNOWN;
    e->retrying_ms = UNKNOWN;
    e->stuck_ms = UNKNOWN;
    fill_tuple(e, t);
}

static __always_inline struct event *new_event(u8 type, int hook, struct tuple *t)
{
    struct wakeup *last = last_wakeup();
    struct event *e;

    /* Before it has its place in the ring: so that whoever comes after it there knows of it. */
    if (type == EVENT_STATE && last)
        __sync_fetch_and_add(&last->waiting, 1);
    e = events.ringbuf_reserve(sizeof(struct event));
    if (!e) {
        lost.atomic_increment(hook);
        return NULL;
    }
    start_event(e, type, t);
    return e;
}

static __always_inline void submit(struct event *e)
{
    struct wakeup *last = last_wakeup();
    struct settings *s = current_settings();
    u64 flags = 0;

    if (last && s && e->type == EVENT_STATE && last->waiting < s->company &&
        e->ktime_ns - last->ktime_ns < PATIENCE_NS) {
        flags = BPF_RB_NO_WAKEUP;
    } else if (last) {
        /* By itself the kernel wakes the reader only for the first event that it has not taken: one of those, here. */
        if (last->waiting != 0)
            flags = BPF_RB_FORCE_WAKEUP;
        last->waiting = 0;
        last->ktime_ns = e->ktime_ns;
    }
    events.ringbuf_submit(e, flags);
}

/* Everything about a full socket, and whose it is. */
static __always_inline void describe_copy(struct event *e, u64 sk, struct sock_copy *s)
{
    e->sk = sk;
    fill_sock(e, s);
    fill_birth(e, sk);
}

/* The same of a full socket; of any other there is nothing to say that its addresses do not. */
static __always_inline void describe(struct event *e, u64 sk, int hook)
{
    struct sock_copy *s;

    if (!is_full_sock(e->state))
        return;
    e->sk = sk;
    s = copy_sock(sk, hook);
    if (!s)
        return;
    describe_copy(e, sk, s);
    give_back(s);
}

#endif

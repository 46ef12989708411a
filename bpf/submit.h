/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Events on their way to the reader: reserve them in the ring buffer, fill and submit them, wake the reader. */
#ifndef TCPWATCH_SUBMIT_H
#define TCPWATCH_SUBMIT_H

#include "event.h"
#include "kernel.h"
#include "filter.h"
#include "settings.h"
#include "sock.h"
#include "socket_origin.h"

BPF_RINGBUF_OUTPUT(events, 1); /* pages; Python creates it with the size of --buffer-size */

/*
 * Wakeups are batched, because each one costs an interrupt and finds Python's caches cold. A state change within
 * WAKEUP_INTERVAL_NS of the previous wakeup does not wake the reader, unless wakeup_batch of them are pending
 * (settings.h). A reader that finds events looks again after that interval by itself (BUSY_MS in
 * tracer/kernel/live.py). Every other event wakes the reader at once.
 */
#define WAKEUP_INTERVAL_NS 100000000ULL

struct wakeup {
    u64 ktime_ns; /* of the event that last woke the reader */
    u64 pending;  /* state changes since then; the reader may have consumed them meanwhile */
};

BPF_ARRAY(wakeups, struct wakeup, 1);

/* Events that did not fit into the ring buffer, by hook. Python reads it through mmap(), which needs no capability. */
BPF_F_TABLE("array", int, u64, lost, NR_COUNTERS, BPF_F_MMAPABLE);

/* bcc 0.18 (Debian 11, Ubuntu 22.04) has no atomic_increment(). */
static __always_inline void count_lost(int counter)
{
    u64 *count = lost.lookup(&counter);

    if (count)
        __sync_fetch_and_add(count, 1);
}

static __always_inline struct wakeup *last_wakeup(void)
{
    int zero = 0;

    return wakeups.lookup(&zero);
}

static __always_inline void start_event(struct event *e, u8 type, struct tuple *t)
{
    __builtin_memset(e, 0, sizeof(*e));
    e->ktime_ns = bpf_ktime_get_boot_ns();
    e->type = type;
    e->silent = DURATION_UNKNOWN;
    e->retrying_ms = DURATION_UNKNOWN;
    e->stuck_ms = DURATION_UNKNOWN;
    fill_tuple(e, t);
}

static __always_inline struct event *reserve_event(u8 type, int hook, struct tuple *t)
{
    struct wakeup *last = last_wakeup();
    struct event *e;

    /* Before the reservation, so that every event behind this one in the ring buffer counts it. */
    if (type == EVENT_STATE && last)
        __sync_fetch_and_add(&last->pending, 1);
    e = events.ringbuf_reserve(sizeof(struct event));
    if (!e) {
        count_lost(hook);
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

    if (last && s && e->type == EVENT_STATE && last->pending < s->wakeup_batch &&
        e->ktime_ns - last->ktime_ns < WAKEUP_INTERVAL_NS) {
        flags = BPF_RB_NO_WAKEUP;
    } else if (last) {
        /* By default the kernel wakes the reader only for the first unread event, here one of the pending ones. */
        if (last->pending != 0)
            flags = BPF_RB_FORCE_WAKEUP;
        last->pending = 0;
        last->ktime_ns = e->ktime_ns;
    }
    events.ringbuf_submit(e, flags);
}

/* Fill the event from a copy of a full socket. */
static __always_inline void fill_event_from(struct event *e, u64 sk, struct sock_copy *s)
{
    e->sk = sk;
    fill_sock(e, s);
    fill_origin(e, sk);
}

/* Fill the event from a socket. Request and time-wait sockets have nothing beyond the tuple. */
static __always_inline void fill_event(struct event *e, u64 sk, int hook)
{
    struct sock_copy *s;

    if (!is_full_sock(e->state))
        return;
    e->sk = sk;
    s = get_sock_copy(sk, hook);
    if (!s)
        return;
    fill_event_from(e, sk, s);
    put_sock_copy(s);
}

#endif

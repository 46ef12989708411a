/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is remembered of a socket between events: when it was opened, by which process, and its retransmissions. */
#ifndef TCPWATCH_SOCKET_ORIGIN_H
#define TCPWATCH_SOCKET_ORIGIN_H

#include "event.h"
#include "kernel.h"
#include "process.h"

struct socket_origin {
    u64 born; /* CLOCK_BOOTTIME of connect() or accept(); 0 if that was before tcpwatch started */
    u32 pid;  /* who connected, while it was on the CPU; later, who closed */
    u8 comm[16];
    u16 is_closed;        /* later events still belong to this connection, until its memory is used for another */
    u16 retransmits_seen; /* icsk_retransmits at the latest retransmission that was an event */
};

BPF_TABLE("lru_hash", u64, struct socket_origin, socket_origins, 65536);

static __always_inline void record_origin(u64 sk, bool by_process)
{
    struct socket_origin o = {.born = bpf_ktime_get_boot_ns()};

    if (by_process) {
        o.pid = current_pid();
        bpf_get_current_comm(o.comm, sizeof(o.comm));
    }
    socket_origins.update(&sk, &o);
}

static __always_inline void record_origin_if_unknown(u64 sk)
{
    struct socket_origin *o = socket_origins.lookup(&sk);

    if (!o || o->is_closed)
        record_origin(sk, false);
}

/*
 * A listener's child has taken this memory (inet_csk_clone_lock(), net/ipv4/inet_connection_sock.c). What is known may
 * be of another connection: one that the filters reject is recorded when it begins, because connect() has no local port
 * yet, and its end is not seen.
 */
static __always_inline void forget_origin(u64 sk)
{
    if (socket_origins.lookup(&sk))
        socket_origins.delete(&sk);
}

static __always_inline void fill_origin(struct event *e, u64 sk)
{
    struct socket_origin *o;

    /* With TCP Fast Open a child socket exists long before it is ESTABLISHED. */
    if (e->state == TCP_SYN_RECV)
        record_origin_if_unknown(sk);
    o = socket_origins.lookup(&sk);
    /* An open socket at the address of a closed one was opened unseen. */
    if (!o || (o->is_closed && e->state != TCP_CLOSE))
        return;
    e->born = o->born;
    e->pid = o->pid;
    __builtin_memcpy(e->comm, o->comm, 16);
}

/* The entry stays until the LRU map needs its room: a reset or an error report may follow the close. */
static __always_inline void record_end(u64 sk)
{
    struct socket_origin *o = socket_origins.lookup(&sk);

    if (o)
        o->is_closed = 1;
}

/* count: icsk_retransmits. born stays 0 for a socket that was opened unseen. */
static __always_inline void record_retransmits(u64 sk, u16 count)
{
    struct socket_origin *o = socket_origins.lookup(&sk);
    struct socket_origin fresh = {.retransmits_seen = count};

    if (o)
        o->retransmits_seen = count;
    else if (count)
        socket_origins.update(&sk, &fresh);
}

/* Whether the kernel has retransmitted more often than there were events. count: icsk_retransmits. */
static __always_inline bool has_unseen_retransmits(u64 sk, u8 count)
{
    struct socket_origin *o;

    if (count == 0)
        return false;
    o = socket_origins.lookup(&sk);
    return !o || count > o->retransmits_seen;
}

/* The process on this CPU closes the socket. It may have exited before Python can look for the owner in /proc. */
static __always_inline void record_closing_process(u64 sk)
{
    struct socket_origin *o = socket_origins.lookup(&sk);
    struct settings *s = current_settings();
    u32 pid = current_pid();
    struct socket_origin fresh = {};

    /* A walk over open files takes a reference to each, so that the reader itself may be the last to release one. */
    if (pid == 0 || (s && pid == s->reader_pid))
        return;
    if (o && !o->is_closed) {
        o->pid = pid;
        bpf_get_current_comm(o->comm, sizeof(o->comm));
        return;
    }
    /* born stays 0: it is part of the socket's identity, which must not change during its life. */
    fresh.pid = pid;
    bpf_get_current_comm(fresh.comm, sizeof(fresh.comm));
    socket_origins.update(&sk, &fresh);
}

#endif

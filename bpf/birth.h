/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is remembered about sockets: when their present life began, whose it was, and what was an event already. */
#ifndef TCPWATCH_BIRTH_H
#define TCPWATCH_BIRTH_H

#include "event.h"
#include "kernel.h"
#include "process.h"

/* When a socket's present life began, and who began it: at connect() the process is still on the CPU. */
struct birth {
    u64 born;
    u32 pid;
    u8 comm[16];
    u16 is_over; /* closed: what comes after that is of the same life, until the socket or another one begins anew */
    u16 seen;    /* icsk_retransmits at the latest retransmission that was an event */
};

BPF_TABLE("lru_hash", u64, struct birth, births, 65536);

static __always_inline void remember_birth(u64 sk, bool by_process)
{
    struct birth b = {.born = bpf_ktime_get_boot_ns()};

    if (by_process) {
        b.pid = current_process();
        bpf_get_current_comm(b.comm, sizeof(b.comm));
    }
    births.update(&sk, &b);
}

/* What had no beginning that was seen begins now. */
static __always_inline void remember_birth_at_last(u64 sk)
{
    struct birth *b = births.lookup(&sk);

    if (!b || b->is_over)
        remember_birth(sk, false);
}

static __always_inline void fill_birth(struct event *e, u64 sk)
{
    struct birth *b;

    /* With Fast Open a child is a socket long before it is ESTABLISHED. */
    if (e->state == TCP_SYN_RECV)
        remember_birth_at_last(sk);
    b = births.lookup(&sk);
    /* A socket that lives, at the address of one that is over, began unseen. */
    if (!b || (b->is_over && e->state != TCP_CLOSE))
        return;
    e->born = b->born;
    e->pid = b->pid;
    __builtin_memcpy(e->comm, b->comm, 16);
}

/*
 * It is closed. A reset and the report of an error may follow, and are of the same life: so this stays until it has to
 * make room.
 */
static __always_inline void remember_end(u64 sk)
{
    struct birth *b = births.lookup(&sk);

    if (b)
        b->is_over = 1;
}

/* So many retransmissions of what is in flight are known. born stays 0 where the beginning of its life was not seen. */
static __always_inline void remember_retransmissions(u64 sk, u16 count)
{
    struct birth *b = births.lookup(&sk);
    struct birth fresh = {.seen = count};

    if (b)
        b->seen = count;
    else if (count)
        births.update(&sk, &fresh);
}

/* Whether the kernel has retransmitted what is in flight more often than there were events. */
static __always_inline bool is_retransmitted_unseen(u64 sk, u8 count)
{
    struct birth *b;

    if (count == 0)
        return false;
    b = births.lookup(&sk);
    return !b || count > b->seen;
}

/* A process closes: remember which, for when its table of files is gone before Python can look. */
static __always_inline void remember_closer(u64 sk)
{
    struct birth *b = births.lookup(&sk);
    struct settings *s = current_settings();
    u32 pid = current_process();
    struct birth fresh = {};

    /* Not the reader, either: a walk over open files holds each for a moment, and may be the last to let go of it. */
    if (pid == 0 || (s && pid == s->reader))
        return;
    if (b && !b->is_over) {
        b->pid = pid;
        bpf_get_current_comm(b->comm, sizeof(b->comm));
        return;
    }
    /* born stays 0: the life of this socket began before us, and its identity must not change now. */
    fresh.pid = pid;
    bpf_get_current_comm(fresh.comm, sizeof(fresh.comm));
    births.update(&sk, &fresh);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Copies of full sockets, and predicates on them. */
#ifndef TCPWATCH_SOCK_COPY_H
#define TCPWATCH_SOCK_COPY_H

#include "event.h"
#include "kernel.h"

/*
 * A whole socket, and the settings of its network namespace. An event needs some fifty members: two helper calls copy
 * them all, where CORE_READ would take one call each.
 */
struct sock_copy {
    u64 busy;
    DECLARE_COPY(tcp_sock, sock);
    DECLARE_COPY(netns_ipv4, netns);
};

/*
 * Copies are too large for the stack. Each program has a slot of its own, its first hook, because a program may
 * interrupt another on the same CPU. SLOT_REENTRY is for a program that interrupts itself, which is possible before
 * Linux 6.1 (__bpf_trace_run(), kernel/trace/bpf_trace.c).
 */
#define SLOT_WALK NR_HOOKS
#define SLOT_REENTRY (NR_HOOKS + 1)
BPF_PERCPU_ARRAY(sock_copies, struct sock_copy, NR_HOOKS + 2);

/* sk: a full socket. Returns NULL or a copy, to be released with put_sock_copy(). */
static __always_inline struct sock_copy *get_sock_copy(u64 sk, int hook)
{
    struct sock_copy *s = sock_copies.lookup(&hook);

    if (s && s->busy) {
        hook = SLOT_REENTRY;
        s = sock_copies.lookup(&hook);
    }
    if (!s)
        return NULL;
    s->busy = 1;
    FILL_COPY(tcp_sock, s->sock, sk);
    FILL_COPY(netns_ipv4, s->netns, COPY_READ(sock_common, skc_net__net, s->sock) + FIELD_OFFSET(net, ipv4));
    return s;
}

static __always_inline void put_sock_copy(struct sock_copy *s)
{
    /* After all reads of the copy. */
    asm volatile("" ::: "memory");
    s->busy = 0;
}

static __always_inline bool sock_flag(struct sock_copy *s, u32 bit)
{
    return (COPY_READ(sock_common, skc_flags, s->sock) >> bit) & 1;
}

static __always_inline bool is_tcp(struct sock_copy *s)
{
    return COPY_READ(sock, sk_protocol, s->sock) == IPPROTO_TCP;
}

static __always_inline bool nothing_in_flight(struct sock_copy *s)
{
    return COPY_READ(tcp_sock, packets_out, s->sock) == 0;
}

static __always_inline bool nothing_unsent(struct sock_copy *s)
{
    return (u32)COPY_READ(tcp_sock, write_seq, s->sock) == (u32)COPY_READ(tcp_sock, snd_nxt, s->sock);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Recover the state changes that the kernel skips when an interrupt re-enters a running program.
 *
 * Since Linux 6.1 the kernel does not run a tracing program while the same program runs on this CPU
 * (__bpf_trace_run(), kernel/trace/bpf_trace.c). A process that changes a socket's state can be interrupted in the
 * program, and the softirq that follows may change the states of dozens of sockets. So a second program is attached
 * after the first, and the kernel runs both for each change. The first one pushes the change on a per-CPU stack. The
 * second one handles each change that is not on the stack.
 *
 * The stack is as deep as interrupts nest. If an interrupt comes while the second program runs, the kernel skips that
 * one: the softirq's next change overwrites its entry, and the process's own pop removes it. An entry that is left
 * over, because the second program was about to return, is removed once it is stale.
 */
#ifndef TCPWATCH_REENTRY_H
#define TCPWATCH_REENTRY_H

#include "kernel.h"

#define MAX_DEPTH 2                    /* a process and a softirq */
#define STALE_JIFFIES (KERNEL_HZ / 20) /* a softirq hands over to ksoftirqd sooner */

struct reentry {
    u64 changes[MAX_DEPTH];
    u64 since; /* jiffies when the lowest entry was pushed */
    u32 count;
    u32 second_is_attached;
};

BPF_PERCPU_ARRAY(reentry, struct reentry, 1);

static __always_inline struct reentry *reentry_of_cpu(void)
{
    int zero = 0;

    return reentry.lookup(&zero);
}

/* A key for the change, unique on one CPU: sockets are aligned to more bytes than there are states. */
static __always_inline u64 state_change(struct bpf_raw_tracepoint_args *ctx)
{
    return ctx->args[0] | (u32)ctx->args[2];
}

/* In the first program. */
static __always_inline void push_change(struct reentry *r, u64 change)
{
    u64 now = bpf_jiffies64();
    u32 below = r->count;

    if (!r->second_is_attached)
        return;
    if (below > 0 && now - r->since > STALE_JIFFIES)
        below = 0;
    if (below >= MAX_DEPTH)
        below = MAX_DEPTH - 1;
    if (below == 0)
        r->since = now;
    r->changes[below] = change;
    asm volatile("" ::: "memory");
    r->count = below + 1;
}

/* In the second program: whether the first one was skipped for this change. Pops the change otherwise. */
static __always_inline bool was_missed(struct reentry *r, u64 change)
{
    u32 count = r->count;

    if (!r->second_is_attached) {
        r->second_is_attached = 1;
        return false;
    }
#pragma unroll
    for (u32 above = MAX_DEPTH; above > 0; above--) {
        if (above <= count && r->changes[above - 1] == change) {
            r->count = above - 1;
            return false;
        }
    }
    return true;
}

#endif

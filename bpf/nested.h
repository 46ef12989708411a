/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Events that an interrupt brings to a hook whose program it finds at work. */
#ifndef TCPWATCH_NESTED_H
#define TCPWATCH_NESTED_H

#include "kernel.h"

/*
 * Since Linux 6.1 the kernel does not run a program for what happens while that same program is at work on this CPU
 * (__bpf_trace_run(), kernel/trace/bpf_trace.c). A process that changes a socket's state can be interrupted there, and
 * the softirq that comes with the interrupt may change the states of dozens: all of them would go by unseen. So that
 * hook has a second program, which the kernel runs right after the first: the first notes what it sees, and the second
 * takes what is not noted.
 *
 * Notes that are not read yet are a stack, as interrupts are. Where an interrupt finds the second program at work, what
 * the first one notes is not read: the softirq's note is overwritten by its next one, and goes with the process's. What
 * is left over all the same, because the second program was about to return, is old when it stands in the way.
 */
#define MOST_NOTES 2              /* a process's and a softirq's */
#define OLD_NOTE (KERNEL_HZ / 20) /* jiffies; a softirq hands over to ksoftirqd sooner */

struct notes {
    u64 changes[MOST_NOTES];
    u64 since; /* jiffies, of the lowest */
    u32 count;
    u32 are_read; /* the second program is there */
};

BPF_PERCPU_ARRAY(notes, struct notes, 1);

static __always_inline struct notes *notes_of_cpu(void)
{
    int zero = 0;

    return notes.lookup(&zero);
}

/* What tells those apart that can be under way on one CPU: sockets are aligned to more than there are states. */
static __always_inline u64 change_of_state(struct bpf_raw_tracepoint_args *ctx)
{
    return ctx->args[0] | (u32)ctx->args[2];
}

/* The first program sees a change. */
static __always_inline void note(struct notes *n, u64 change)
{
    u64 now = bpf_jiffies64();
    u32 below = n->count;

    if (!n->are_read)
        return;
    if (below > 0 && now - n->since > OLD_NOTE)
        below = 0;
    if (below >= MOST_NOTES)
        below = MOST_NOTES - 1;
    if (below == 0)
        n->since = now;
    n->changes[below] = change;
    asm volatile("" ::: "memory");
    n->count = below + 1;
}

/* The second program comes to a change: whether the first one has not seen it. */
static __always_inline bool is_not_noted(struct notes *n, u64 change)
{
    u32 count = n->count;

    if (!n->are_read) {
        n->are_read = 1;
        return false;
    }
#pragma unroll
    for (u32 above = MOST_NOTES; above > 0; above--) {
        if (above <= count && n->changes[above - 1] == change) {
            n->count = above - 1;
            return false;
        }
    }
    return true;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Events that an interrupt brings to a hook whose program it finds at work. */
#ifndef TCPWATCH_TURN_H
#define TCPWATCH_TURN_H

#include "kernel.h"

/*
 * Since Linux 6.1 the kernel does not run a program for what happens while that same program is at work on this CPU
 * (__bpf_trace_run(), kernel/trace/bpf_trace.c). A process that changes a socket's state can be interrupted there, and
 * the softirq that comes with the interrupt may change the states of dozens: all of them would go by unseen. So that
 * hook has a second program, which looks whether the first one could run, and takes its place where it could not.
 */
struct turn {
    u32 busy;  /* the first program is at work on this CPU */
    u32 taken; /* and has run itself for what the interrupt brought: before 6.1 */
};

BPF_PERCPU_ARRAY(turns, struct turn, 1);

static __always_inline struct turn *current_turn(void)
{
    int zero = 0;

    return turns.lookup(&zero);
}

/* The first program begins. Whether it interrupts itself. */
static __always_inline bool take_turn(struct turn *turn)
{
    bool nested = turn->busy;

    turn->busy = 1;
    asm volatile("" ::: "memory");
    return nested;
}

/* It has done its work. */
static __always_inline void end_turn(struct turn *turn, bool nested)
{
    asm volatile("" ::: "memory");
    if (nested)
        turn->taken = 1;
    else
        turn->busy = 0;
}

/* The second program, right after the first one: whether that could not run. */
static __always_inline bool missed_turn(struct turn *turn)
{
    if (!turn->busy)
        return false;
    if (turn->taken) {
        turn->taken = 0;
        return false;
    }
    return true;
}

#endif

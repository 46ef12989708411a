/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What differs from one start to the next, handed over before anything is attached (tracer/kernel/program/program.py): the
 * program itself is the same for each start on a kernel, and has to be compiled only once.
 */
#ifndef TCPWATCH_SETTINGS_H
#define TCPWATCH_SETTINGS_H

#include <linux/types.h>

#define MMAPABLE (1U << 10) /* BPF_F_MMAPABLE, include/uapi/linux/bpf.h (5.5) */

struct settings {
    u64 keepalive_timer; /* address of tcp_keepalive_timer(); 0: not known, and nothing is attached that asks */
    u64 write_timer;     /* the same of tcp_write_timer() */
    u32 resume_jiffies;  /* a peer that is heard again after such a silence is an event */
    u32 filters;         /* enum filter_flags */
    u32 company;         /* so many changes of state wake the reader (submit.h) */
    u32 waiting_jiffies; /* a socket that has waited for an answer in such a silence is an event (walk.h) */
    u32 pid_namespace;   /* inode of the reader's, in which processes are numbered */
    u32 pid_device;      /* device of that inode */
    u32 reader;          /* the reader's own number in that namespace */
    u32 reserved;
};

BPF_ARRAY(settings, struct settings, 1);

static __always_inline struct settings *current_settings(void)
{
    int zero = 0;

    return settings.lookup(&zero);
}

#endif

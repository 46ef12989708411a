/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The settings of one run. Python writes them before it attaches anything (tracer/kernel/program/program.py). They are
 * not compiled in, so that a kernel needs the program compiled only once.
 */
#ifndef TCPWATCH_SETTINGS_H
#define TCPWATCH_SETTINGS_H

#include <linux/types.h>

#define BPF_F_MMAPABLE (1U << 10) /* include/uapi/linux/bpf.h (5.5) */

struct settings {
    u64 keepalive_timer; /* address of tcp_keepalive_timer(); 0: unknown, and no program that needs it is attached */
    u64 write_timer;     /* address of tcp_write_timer(); likewise */
    u32 resume_jiffies;  /* a segment after at least this silence is an event */
    u32 filters;         /* enum filter_flags */
    u32 wakeup_batch;    /* number of state changes that wake the reader (submit.h) */
    u32 waiting_jiffies; /* a socket that waits for a response is an event after at least this silence (walk.h) */
    u32 pid_namespace;   /* inode of the reader's PID namespace */
    u32 pid_device;      /* device of that inode */
    u32 reader_pid;      /* in that namespace */
    u32 reserved;
};

BPF_ARRAY(settings, struct settings, 1);

static __always_inline struct settings *current_settings(void)
{
    int zero = 0;

    return settings.lookup(&zero);
}

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who a process is: its number as the reader of the events sees it, and the name of the program that it executes. */
#ifndef TCPWATCH_PROCESS_H
#define TCPWATCH_PROCESS_H

#include "kernel.h"
#include "settings.h"

/* include/linux/proc_ns.h: PROC_PID_INIT_INO, the inode of the PID namespace that has every process. */
#define EVERY_PROCESS 0xEFFFFFFCU

/* include/uapi/linux/bpf.h (5.7). It fails unless the process is in that PID namespace, not in one below it. */
struct numbers {
    u32 thread;
    u32 process;
};
static long (*current_numbers)(u64 device, u64 inode, struct numbers *numbers, u32 size) = (void *)120;

/* The number of the process on this CPU, in the PID namespace of the reader; 0 where it is not known to have one. */
static __always_inline u32 current_process(void)
{
    struct settings *s = current_settings();
    struct numbers numbers = {};

    if (!s || s->pid_namespace == EVERY_PROCESS)
        return bpf_get_current_pid_tgid() >> 32;
    if (current_numbers(s->pid_device, s->pid_namespace, &numbers, sizeof(numbers)) != 0)
        return 0;
    return numbers.process;
}

/*
 * The number of the process of a task, in the PID namespace of the process on this CPU: for an iterator, which only
 * visits tasks that have one there (init_seq_pidns(), kernel/bpf/task_iter.c).
 */
static __always_inline u32 number_for_reader(u64 task)
{
    u64 reader = READ(task_struct, thread_pid, bpf_get_current_task());
    u64 leader = READ(task_struct, group_leader, task);
    u64 number = READ(task_struct, thread_pid, leader) + OFFSET(pid, numbers) + READ(pid, level, reader) * SIZEOF(upid);

    return READ(upid, nr, number);
}

/* The name of the process of a task, which is that of its first thread, as in /proc/PID/comm. */
static __always_inline void copy_comm(u8 comm[16], u64 task)
{
    bpf_probe_read_kernel(comm, 16, (void *)(READ(task_struct, group_leader, task) + OFFSET(task_struct, comm)));
}

/* The name of the file that a task executes: the last part of /proc/PID/exe. Empty for a kernel thread. */
static __always_inline void copy_exe(u8 *exe, const u32 size, u64 task)
{
    u64 file = READ(mm_struct, exe_file, READ(task_struct, mm, task));
    u64 name = READ(dentry, d_name__name, READ(file, f_path__dentry, file));

    exe[0] = 0;
    if (name)
        bpf_probe_read_kernel_str(exe, size, (void *)name);
}

#endif

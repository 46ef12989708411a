/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who a process is: its number as the reader of the events sees it, and the name of the program that it executes. */
#ifndef TCPWATCH_PROCESS_H
#define TCPWATCH_PROCESS_H

#include "kernel.h"
#include "settings.h"

/* include/linux/proc_ns.h: PROC_PID_INIT_INO, the inode of the namespace that has every process. */
#define EVERY_PROCESS 0xEFFFFFFCU
/* A process has a number in its own PID namespace and in each above: so many are looked at, from the outermost on. */
#define PID_NAMESPACES 4

/*
 * The number of the process on this CPU, in the PID namespace of the reader; 0 if that namespace does not have it.
 * bpf_get_current_pid_tgid() gives the number in the outermost one.
 */
static __always_inline u32 current_process(void)
{
    struct settings *s = current_settings();
    u32 outermost = bpf_get_current_pid_tgid() >> 32;
    u64 leader, pid, number;
    u32 deepest, found = 0;

    if (!s || s->pid_namespace == EVERY_PROCESS || outermost == 0)
        return outermost;
    leader = READ(task_struct, group_leader, bpf_get_current_task());
    pid = READ(task_struct, thread_pid, leader);
    deepest = READ(pid, level, pid);
#pragma unroll
    for (u32 level = 0; level < PID_NAMESPACES; level++) {
        if (level > deepest)
            break;
        number = pid + OFFSET(pid, numbers) + level * SIZEOF(upid);
        if (READ(pid_namespace, ns__inum, READ(upid, ns, number)) == s->pid_namespace)
            found = READ(upid, nr, number);
    }
    return found;
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

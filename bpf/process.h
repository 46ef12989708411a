/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Processes: the pid as the reader of the events sees it, comm, and the name of the executable. */
#ifndef TCPWATCH_PROCESS_H
#define TCPWATCH_PROCESS_H

#include "kernel.h"
#include "settings.h"

/* PROC_PID_INIT_INO, include/linux/proc_ns.h */
#define INIT_PID_NS_INODE 0xEFFFFFFCU

/* include/uapi/linux/bpf.h (5.7). It fails for a process in a descendant of that PID namespace. */
struct pidns_info {
    u32 pid;
    u32 tgid;
};
static long (*get_ns_current_pid_tgid)(u64 device, u64 inode, struct pidns_info *info, u32 size) = (void *)120;

/* The pid of the process on this CPU, in the PID namespace of the reader; 0 if unknown. */
static __always_inline u32 current_pid(void)
{
    struct settings *s = current_settings();
    struct pidns_info info = {};

    if (!s || s->pid_namespace == INIT_PID_NS_INODE)
        return bpf_get_current_pid_tgid() >> 32;
    if (get_ns_current_pid_tgid(s->pid_device, s->pid_namespace, &info, sizeof(info)) != 0)
        return 0;
    return info.tgid;
}

/*
 * For an iterator: the pid of a task's process, in the PID namespace of the process on this CPU, which reads the
 * iterator. It visits no task without a pid there (init_seq_pidns(), kernel/bpf/task_iter.c).
 */
static __always_inline u32 pid_for_reader(u64 task)
{
    u64 reader = CORE_READ(task_struct, thread_pid, bpf_get_current_task());
    u64 leader = CORE_READ(task_struct, group_leader, task);
    u64 number = CORE_READ(task_struct, thread_pid, leader) + FIELD_OFFSET(pid, numbers) +
                 CORE_READ(pid, level, reader) * TYPE_SIZE(upid);

    return CORE_READ(upid, nr, number);
}

/* comm of the thread group leader, as /proc/PID/comm shows it. */
static __always_inline void copy_comm(u8 comm[16], u64 task)
{
    bpf_probe_read_kernel(comm, 16,
                          (void *)(CORE_READ(task_struct, group_leader, task) + FIELD_OFFSET(task_struct, comm)));
}

/* The last component of /proc/PID/exe. Empty for a kernel thread. */
static __always_inline void copy_exe(u8 *exe, const u32 size, u64 task)
{
    u64 file = CORE_READ(mm_struct, exe_file, CORE_READ(task_struct, mm, task));
    u64 name = CORE_READ(dentry, d_name__name, CORE_READ(file, f_path__dentry, file));

    exe[0] = 0;
    if (name)
        bpf_probe_read_kernel_str(exe, size, (void *)name);
}

#endif

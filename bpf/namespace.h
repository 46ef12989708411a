/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The network namespace of each process: an iterator over all tasks (BPF_TRACE_ITER, bpf_iter__task,
 * kernel/bpf/task_iter.c, 5.8). tracer/kernel/namespaces.py reads it.
 */
#ifndef TCPWATCH_NAMESPACE_H
#define TCPWATCH_NAMESPACE_H

#include "iterator.h"
#include "process.h"

/* kernel/bpf/task_iter.c; each member is 8 bytes wide. */
struct bpf_iter__task {
    struct bpf_iter_meta *meta;
    void *task;
};

struct process_netns {
    u64 cookie; /* unique id of the network namespace; 0 if this kernel has assigned none yet */
    u32 netns;  /* inode of the network namespace */
    u32 pid;    /* in the PID namespace of the reader */
};

int report_netns(struct bpf_iter__task *ctx)
{
    u64 task = (u64)ctx->task;
    struct process_netns p;
    u64 net;

    /* Other threads may be in other namespaces, but /proc/PID/net shows that of the thread group leader. */
    if (!task || CORE_READ(task_struct, group_leader, task) != task)
        return 0;
    net = CORE_READ(nsproxy, net_ns, CORE_READ(task_struct, nsproxy, task));
    p.cookie = CORE_READ(net, net_cookie, net);
    p.netns = CORE_READ(net, ns__inum, net);
    p.pid = pid_for_reader(task);
    /* A zombie has no namespaces. */
    if (p.netns)
        bpf_seq_write(ctx->meta->seq, &p, sizeof(p));
    return 0;
}

#endif

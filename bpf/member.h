/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which network namespace a process lives in: an iterator over all tasks (BPF_TRACE_ITER, bpf_iter__task,
 * kernel/bpf/task_iter.c, 5.8) that writes a struct member for each process. tracer/kernel/namespaces.py reads it.
 */
#ifndef TCPWATCH_MEMBER_H
#define TCPWATCH_MEMBER_H

#include "iterator.h"
#include "process.h"

/* kernel/bpf/task_iter.c, each member 8 bytes wide. */
struct bpf_iter__task {
    struct bpf_iter_meta *meta;
    void *task;
};

struct member {
    u64 cookie; /* of the network namespace, never the same for two; 0 where this kernel has not made one */
    u32 netns;  /* inode of the network namespace */
    u32 pid;    /* as the reader of the iterator sees it */
};

int report_member(struct bpf_iter__task *ctx)
{
    u64 task = (u64)ctx->task;
    struct member m;
    u64 net;

    /* Other threads than the first may be in other namespaces, but /proc/PID/net shows that of the first. */
    if (!task || READ(task_struct, group_leader, task) != task)
        return 0;
    net = READ(nsproxy, net_ns, READ(task_struct, nsproxy, task));
    m.cookie = READ(net, net_cookie, net);
    m.netns = READ(net, ns__inum, net);
    m.pid = number_for_reader(task);
    /* A process that has ended has no namespaces, and waits for its parent. */
    if (m.netns)
        bpf_seq_write(ctx->meta->seq, &m, sizeof(m));
    return 0;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which processes hold a socket: an iterator over the open files of all tasks (BPF_TRACE_ITER, 5.8). It writes a struct
 * holder for each file of a requested socket. tracer/kernel/holders.py reads it.
 */
#ifndef TCPWATCH_HOLDER_H
#define TCPWATCH_HOLDER_H

#include "files.h"
#include "process.h"

#define IPPROTO_MPTCP 262

struct holder {
    u64 inode; /* of the socket */
    u32 pid;   /* in the PID namespace of the reader */
    u8 comm[16];
    u8 exe[36]; /* name of the executable, truncated */
};

/*
 * The requested sockets, a bitmap by the low bits of their inodes. Sockets that share a bit are reported too.
 * Python writes it through mmap(), which needs no capability; bpf(2) would need CAP_BPF.
 */
#define REQUESTED_WORDS 1024
BPF_F_TABLE("array", u32, u64, requested, REQUESTED_WORDS, BPF_F_MMAPABLE);

static __always_inline bool is_requested(u64 inode)
{
    u32 word = inode / 64 % REQUESTED_WORDS;
    u64 *bits = requested.lookup(&word);

    return bits && (*bits >> (inode % 64) & 1);
}

/* An MPTCP socket shares its inode number with its TCP subflows. */
static __always_inline bool is_tcp_or_mptcp(u64 sk)
{
    u64 protocol = CORE_READ(sock, sk_protocol, sk);

    return protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP;
}

int report_holder(struct bpf_iter__task_file *ctx)
{
    const u8 *file = ctx->file;
    u64 task = (u64)ctx->task;
    struct holder h = {};
    const u8 *inode;

    if (!file || !task)
        return 0;
    inode = inode_of_socket(file);
    if (!inode)
        return 0;
    h.inode = TYPED_READ(inode, i_ino, inode);
    if (!is_requested(h.inode) || !is_tcp_or_mptcp(sock_of(file)))
        return 0;
    h.pid = pid_for_reader(task);
    copy_comm(h.comm, task);
    copy_exe(h.exe, sizeof(h.exe), task);
    bpf_seq_write(ctx->meta->seq, &h, sizeof(h));
    return 0;
}

#endif

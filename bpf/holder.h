/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who holds a socket: an iterator over the open files of all tasks (BPF_TRACE_ITER, 5.8) that writes a struct holder
 * for each file that is one of the sockets asked for. tracer/kernel/holders.py reads it.
 */
#ifndef TCPWATCH_HOLDER_H
#define TCPWATCH_HOLDER_H

#include "files.h"
#include "process.h"

#define IPPROTO_MPTCP 262

struct holder {
    u64 inode; /* of the socket */
    u32 pid;   /* as the reader of the iterator sees it */
    u8 comm[16];
    u8 exe[36]; /* name of the program's file, which may be longer */
};

/*
 * The sockets asked for: a bit for each, by the low bits of its inode. Others that share a bit are reported as well.
 * Python sets them in place, without the bpf() that needs CAP_BPF.
 */
#define ASKED_WORDS 1024
BPF_F_TABLE("array", u32, u64, asked, ASKED_WORDS, MMAPABLE);

static __always_inline bool is_asked(u64 inode)
{
    u32 word = inode / 64 % ASKED_WORDS;
    u64 *bits = asked.lookup(&word);

    return bits && (*bits >> (inode % 64) & 1);
}

/* The file of an MPTCP connection is not a TCP socket; its subflows have the same inode number. */
static __always_inline bool is_tcp_or_mptcp(u64 sk)
{
    u64 protocol = READ(sock, sk_protocol, sk);

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
    h.inode = LOAD(inode, i_ino, inode);
    if (!is_asked(h.inode) || !is_tcp_or_mptcp(sock_of(file)))
        return 0;
    h.pid = number_for_reader(task);
    copy_comm(h.comm, task);
    copy_exe(h.exe, sizeof(h.exe), task);
    bpf_seq_write(ctx->meta->seq, &h, sizeof(h));
    return 0;
}

#endif

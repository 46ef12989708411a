/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The open files of all tasks, which an iterator passes one by one, and the sockets among them. */
#ifndef TCPWATCH_FILES_H
#define TCPWATCH_FILES_H

#include "kernel.h"
#include "iterator.h"

/* include/uapi/linux/magic.h */
#define SOCKFS_MAGIC 0x534F434B

/* kernel/bpf/task_iter.c, each member 8 bytes wide. */
struct bpf_iter__task_file {
    struct bpf_iter_meta *meta;
    void *task;
    u64 fd;
    void *file;
};

/* The inode of an open file that is a socket, or NULL. Members are read by the verifier's knowledge of struct file. */
static __always_inline const u8 *inode_of_socket(const u8 *file)
{
    const u8 *inode = (const u8 *)LOAD(file, f_inode, file);
    const u8 *filesystem;

    if (!inode)
        return NULL;
    filesystem = (const u8 *)LOAD(inode, i_sb, inode);
    return filesystem && LOAD(super_block, s_magic, filesystem) == SOCKFS_MAGIC ? inode : NULL;
}

/* The struct sock behind an open file that is a socket. */
static __always_inline u64 sock_of(const u8 *file)
{
    return READ(socket, sk, LOAD(file, private_data, file));
}

/* The TCP socket behind an open file, or 0. */
static __always_inline u64 tcp_socket_of(const u8 *file)
{
    u64 sk;

    if (!inode_of_socket(file))
        return 0;
    sk = sock_of(file);
    return READ(sock, sk_protocol, sk) == IPPROTO_TCP ? sk : 0;
}

#endif

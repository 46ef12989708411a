/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The TCP sockets among open files, for iterators over the files of all tasks. */
#ifndef TCPWATCH_FILES_H
#define TCPWATCH_FILES_H

#include "kernel.h"
#include "iterator.h"

/* include/uapi/linux/magic.h */
#define SOCKFS_MAGIC 0x534F434B

/* kernel/bpf/task_iter.c; each member is 8 bytes wide. */
struct bpf_iter__task_file {
    struct bpf_iter_meta *meta;
    void *task;
    u64 fd;
    void *file;
};

/* The inode of a socket's file; NULL for any other file. */
static __always_inline const u8 *inode_of_socket(const u8 *file)
{
    const u8 *inode = (const u8 *)TYPED_READ(file, f_inode, file);
    const u8 *filesystem;

    if (!inode)
        return NULL;
    filesystem = (const u8 *)TYPED_READ(inode, i_sb, inode);
    return filesystem && TYPED_READ(super_block, s_magic, filesystem) == SOCKFS_MAGIC ? inode : NULL;
}

/* The struct sock of a socket's file. */
static __always_inline u64 sock_of(const u8 *file)
{
    return CORE_READ(socket, sk, TYPED_READ(file, private_data, file));
}

/* The struct sock of a TCP socket's file; 0 for any other file. */
static __always_inline u64 tcp_socket_of(const u8 *file)
{
    u64 sk;

    if (!inode_of_socket(file))
        return 0;
    sk = sock_of(file);
    return CORE_READ(sock, sk_protocol, sk) == IPPROTO_TCP ? sk : 0;
}

#endif

/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The context of every BPF iterator: include/linux/bpf.h. */
#ifndef TCPWATCH_ITERATOR_H
#define TCPWATCH_ITERATOR_H

#include <linux/types.h>

struct bpf_iter_meta {
    void *seq;
    u64 session_id; /* unique for each pass over all objects */
    u64 seq_num;
};

#endif
